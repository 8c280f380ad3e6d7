//! The client of the Kubernetes API, the field manager of its writes, and the objects that several
//! parts write: Events, and Leases that carry a report.

mod event;
mod report;

use http::{HeaderValue, header};
use kube::api::{PatchParams, PostParams};
use kube::{Client, Config};

pub(crate) use event::{EventKind, event};
pub(crate) use report::{ReportError, ReportLease};

/// The field manager of every write, by both commands.
pub const FIELD_MANAGER: &str = "weft-controller";
/// The label of objects with the program that manages them.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The part before the slash is the field manager of a write that names none.
const USER_AGENT: &str = concat!("weft-controller/", env!("CARGO_PKG_VERSION"));

/// Returns the client of this process: by the service account of its pod, or by `KUBECONFIG`.
pub async fn client() -> Result<Client, kube::Error> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    client_of(config)
}

/// Makes a client whose user agent names the program.
pub fn client_of(mut config: Config) -> Result<Client, kube::Error> {
    let agent = HeaderValue::from_static(USER_AGENT);
    config.headers.push((header::USER_AGENT, agent));
    Client::try_from(config)
}

/// The parameters of creations and replacements.
pub fn post() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// The parameters of patches other than server-side apply.
pub fn patch() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// The parameters of server-side apply: fields of this manager that another has changed are taken
/// back.
pub fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::Patch;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The head of the first request that `call` makes.
    async fn head(call: impl AsyncFnOnce(Api<ConfigMap>)) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Api::default_namespaced(client_of(Config::new(url.parse().unwrap())).unwrap());
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            let answer =
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            tcp.write_all(answer).await.unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        };
        tokio::join!(server, call(api)).0
    }

    #[tokio::test]
    async fn every_write_names_the_controller() {
        // An error says that one is there already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let map = ConfigMap::default();
        let created = head(async |api| drop(api.create(&post(), &map).await)).await;
        let merge = Patch::Merge(serde_json::json!({}));
        let patched = head(async |api| drop(api.patch("a", &patch(), &merge).await)).await;
        for head in [created, patched] {
            assert!(head.contains("fieldmanager=weft-controller"), "{head}");
            assert!(head.contains("user-agent: weft-controller/"), "{head}");
        }
    }
}
