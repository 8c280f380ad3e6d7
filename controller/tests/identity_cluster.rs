//! Identity against a real cluster: the root's Secret, token review, the roots' ConfigMaps.
//!
//! Ignored by default: needs `KUBECONFIG` and rights to make namespaces and roles. It works in
//! namespaces of its own, as an account whose writes reach nowhere else, and removes what it made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, all of it")]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Request};
use weft_api::proto::SignRequest;
use weft_api::proto::certificate_authority_server::CertificateAuthority;
use weft_controller::identity::pod::PodCheck;
use weft_controller::identity::{
    KubeReviewer, Metrics, SecretStore, Signer, TrustReceiver, new_root, roots,
};
use weft_controller::snapshot::Snapshot;
use weft_ir::{Mode, TrustDomain};
use weft_translate::{Objects, Settings, translate};

const HOME: &str = "weft-identity-check";
const OPTED: &str = "weft-identity-check-pod";
const SECRET: &str = "weft-ca";

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

struct Cluster {
    admin: Client,
    controller: Client,
}

impl Cluster {
    /// Namespaces, an account and its roles: what the chart gives, but with writes in these
    /// namespaces only.
    async fn prepare() -> Self {
        let config = Config::infer().await.expect("a kubeconfig");
        let admin = Client::try_from(config.clone()).unwrap();
        let mut as_controller = config;
        as_controller.auth_info.impersonate =
            Some(format!("system:serviceaccount:{HOME}:weft-controller"));
        let cluster = Self {
            admin,
            controller: Client::try_from(as_controller).unwrap(),
        };
        cluster.clean().await;
        cluster.make_namespaces().await;
        cluster.make_roles().await;
        cluster
    }

    async fn make_namespaces(&self) {
        let namespaces = Api::<Namespace>::all(self.admin.clone());
        for (name, labels) in [
            (HOME, json!({"weft.dev/inject": "enabled"})),
            (OPTED, json!({})),
        ] {
            let object = read(json!({"metadata": {"name": name, "labels": labels}}));
            namespaces
                .create(&PostParams::default(), &object)
                .await
                .unwrap();
        }
        let accounts = Api::<ServiceAccount>::namespaced(self.admin.clone(), HOME);
        for name in ["weft-controller", "bob"] {
            let object = read(json!({"metadata": {"name": name}}));
            accounts
                .create(&PostParams::default(), &object)
                .await
                .unwrap();
        }
    }

    async fn make_roles(&self) {
        let see = json!([
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["namespaces", "pods", "services"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["weft-roots"], "verbs": ["list", "watch"]},
        ]);
        let write = json!([
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["weft-roots"], "verbs": ["create", "patch", "delete"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["weft-ca"], "verbs": ["get", "list", "watch"]},
        ]);
        let roles = Api::<ClusterRole>::all(self.admin.clone());
        for (name, rules) in [(HOME, see), (OPTED, write)] {
            let object = read(json!({"metadata": {"name": name}, "rules": rules}));
            roles.create(&PostParams::default(), &object).await.unwrap();
        }
        let binding = |role: &str| {
            json!({
                "metadata": {"name": HOME},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": "weft-controller", "namespace": HOME}],
            })
        };
        Api::<ClusterRoleBinding>::all(self.admin.clone())
            .create(&PostParams::default(), &read(binding(HOME)))
            .await
            .unwrap();
        for namespace in [HOME, OPTED] {
            Api::<RoleBinding>::namespaced(self.admin.clone(), namespace)
                .create(&PostParams::default(), &read(binding(OPTED)))
                .await
                .unwrap();
        }
    }

    /// Removes everything, from an earlier run too.
    async fn clean(&self) {
        let how = DeleteParams::default();
        let namespaces = Api::<Namespace>::all(self.admin.clone());
        for name in [HOME, OPTED] {
            let _ = namespaces.delete(name, &how).await;
            let _ = Api::<ClusterRole>::all(self.admin.clone())
                .delete(name, &how)
                .await;
        }
        let _ = Api::<ClusterRoleBinding>::all(self.admin.clone())
            .delete(HOME, &how)
            .await;
        for name in [HOME, OPTED] {
            until("the namespace is gone", async || {
                namespaces.get_opt(name).await.unwrap().is_none()
            })
            .await;
        }
    }

    /// A pod that is never scheduled: enough to bind a token to, and to opt in with.
    async fn pod(&self, namespace: &str, name: &str, labels: Value) {
        let object = read(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "serviceAccountName": if namespace == HOME { "bob" } else { "default" },
                "nodeSelector": {"weft.dev/nowhere": "true"},
                "containers": [{"name": "a", "image": "none"}],
            },
        }));
        let pods = Api::<Pod>::namespaced(self.admin.clone(), namespace);
        until("the account of the pod is there", async || {
            pods.create(&PostParams::default(), &object).await.is_ok()
        })
        .await;
    }

    async fn token(&self, audience: &str, pod: Option<&str>) -> String {
        let bound = pod.map(|name| json!({"apiVersion": "v1", "kind": "Pod", "name": name}));
        let request: TokenRequest = read(json!({
            "metadata": {},
            "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound},
        }));
        let accounts = Api::<ServiceAccount>::namespaced(self.admin.clone(), HOME);
        let answer = accounts
            .create_token_request("bob", &PostParams::default(), &request)
            .await
            .unwrap();
        answer.status.and_then(|s| s.token).expect("a token")
    }

    fn store(&self) -> SecretStore {
        SecretStore {
            client: self.controller.clone(),
            namespace: HOME.to_owned(),
            name: SECRET.to_owned(),
            metrics: Metrics::default(),
        }
    }

    async fn map(&self, namespace: &str) -> Option<String> {
        let maps = Api::<ConfigMap>::namespaced(self.admin.clone(), namespace);
        let map = maps.get_opt(roots::CONFIG_MAP).await.unwrap()?;
        map.data?.remove(roots::KEY)
    }

    async fn patch_secret(&self, crt: &str, key: &str) {
        let patch = json!({"stringData": {"tls.crt": crt, "tls.key": key}});
        Api::<Secret>::namespaced(self.admin.clone(), HOME)
            .patch(SECRET, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
}

/// Asks again and again, for two minutes at most.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), asking)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
#[ignore = "needs a cluster: KUBECONFIG"]
async fn identity_on_a_cluster() {
    let cluster = Cluster::prepare().await;
    let stop = CancellationToken::new();
    let trust = one_root_for_all(&cluster, &stop).await;
    only_own_tokens_are_signed(&cluster, &trust).await;
    let keeping = tokio::spawn(roots::keep(
        cluster.controller.clone(),
        roots::ServiceName {
            namespace: HOME.to_owned(),
            name: "weft-controller",
        },
        trust.clone(),
        tokio::sync::watch::channel(None).1,
        tokio::sync::watch::Sender::default(),
        Metrics::default(),
        stop.clone(),
    ));
    config_maps_are_kept(&cluster, &trust).await;
    a_replaced_root_is_taken_and_a_broken_one_is_not(&cluster, &trust).await;
    a_deleted_secret_comes_back(&cluster, &trust).await;
    stop.cancel();
    keeping.await.unwrap();
    cluster.clean().await;
}

async fn one_root_for_all(cluster: &Cluster, stop: &CancellationToken) -> TrustReceiver {
    let (a, b, c) = (cluster.store(), cluster.store(), cluster.store());
    let together = tokio::join!(a.load_or_create(), b.load_or_create(), c.load_or_create());
    let first = together.0.unwrap().0;
    for other in [together.1.unwrap().0, together.2.unwrap().0] {
        assert_eq!(first.authority.root(), other.authority.root());
    }
    let trust = cluster.store().start(stop.clone()).await.unwrap().0;
    assert_eq!(trust.borrow().authority.root(), first.authority.root());
    trust
}

/// The cluster with this pod alone, as the controller sees it.
fn snapshot(pod: &Pod) -> Arc<Snapshot> {
    let objects = Objects {
        pods: vec![Arc::new(read(serde_json::to_value(pod).unwrap()))],
        ..Objects::default()
    };
    let settings = Settings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        mode: Mode::Permissive,
        authorization: weft_ir::DefaultAuthorization::Allow,
        authorization_floor: weft_ir::DefaultAuthorization::Allow,
        mode_floor: Mode::Permissive,
        controller_name: weft_controller::names::CONTROLLER_NAME.to_owned(),
        gateway_controller_name: weft_controller::names::GATEWAY_CONTROLLER_NAME.to_owned(),
        endpoints: weft_translate::EndpointRules::default(),
        namespace: "weft-system".to_owned(),
    };
    Arc::new(Snapshot::new(translate(&objects, &settings)))
}

async fn only_own_tokens_are_signed(cluster: &Cluster, trust: &TrustReceiver) {
    cluster.pod(HOME, "bob-0", json!({})).await;
    let domain = TrustDomain::new("cluster.local").unwrap();
    let pods = Api::<Pod>::namespaced(cluster.admin.clone(), HOME);
    let pod = pods.get("bob-0").await.unwrap();
    let (_publish, snapshots) = watch::channel(Some(snapshot(&pod)));
    let check = PodCheck {
        snapshots,
        // This process is no pod.
        address: false,
        max_wait: Duration::from_secs(1),
    };
    let signer = Signer::new(
        KubeReviewer(cluster.controller.clone()),
        trust.clone(),
        domain,
        Duration::from_secs(3600),
        check,
        Metrics::default(),
    );
    let ask = async |account: &str, token: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = format!("spiffe://cluster.local/ns/{HOME}/sa/{account}");
        params.subject_alt_names = vec![rcgen::SanType::URI(name.as_str().try_into().unwrap())];
        let csr = params.serialize_request(&key).unwrap().der().to_vec();
        let message = SignRequest {
            csr: csr.into(),
            token: token.to_owned(),
        };
        let mut request = Request::new(message);
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(([127, 0, 0, 1], 4000).into()),
        });
        let answer = signer.sign(request).await;
        answer.map(|_| ()).map_err(|status| {
            println!("{account}: {status}");
            status.code()
        })
    };
    let own = cluster.token("weft.dev/ca", Some("bob-0")).await;
    let elsewhere = cluster.token("https://elsewhere", Some("bob-0")).await;
    let unbound = cluster.token("weft.dev/ca", None).await;
    assert_eq!(ask("bob", &own).await, Ok(()));
    assert_eq!(ask("alice", &own).await, Err(Code::PermissionDenied));
    assert_eq!(ask("bob", &elsewhere).await, Err(Code::Unauthenticated));
    assert_eq!(ask("bob", &unbound).await, Err(Code::Unauthenticated));
    assert_eq!(ask("bob", "garbage").await, Err(Code::Unauthenticated));
    assert_eq!(ask("bob", "").await, Err(Code::Unauthenticated));
    pods.delete("bob-0", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("a deleted pod's token is refused", async || {
        ask("bob", &own).await == Err(Code::Unauthenticated)
    })
    .await;
}

fn bundle(trust: &TrustReceiver) -> String {
    trust.borrow().roots.pem(OffsetDateTime::now_utc())
}

async fn config_maps_are_kept(cluster: &Cluster, trust: &TrustReceiver) {
    let wanted = Some(bundle(trust));
    let kept = async |what| {
        until(what, async || cluster.map(HOME).await == wanted).await;
    };
    kept("written into the labelled namespace").await;
    assert_eq!(cluster.map(OPTED).await, None);
    let maps = Api::<ConfigMap>::namespaced(cluster.admin.clone(), HOME);
    let edit = Patch::Merge(json!({"data": {"ca.crt": "edited"}}));
    maps.patch(roots::CONFIG_MAP, &PatchParams::default(), &edit)
        .await
        .unwrap();
    kept("restored after an edit").await;
    maps.delete(roots::CONFIG_MAP, &DeleteParams::default())
        .await
        .unwrap();
    kept("written again after its deletion").await;
    let labels = json!({"weft.dev/inject": "enabled"});
    cluster.pod(OPTED, "opts-in", labels).await;
    until("written for a pod that opts in", async || {
        cluster.map(OPTED).await == wanted
    })
    .await;
}

async fn a_replaced_root_is_taken_and_a_broken_one_is_not(
    cluster: &Cluster,
    trust: &TrustReceiver,
) {
    let before = trust.borrow().authority.root().clone();
    cluster.patch_secret("garbage", "garbage").await;
    let next = new_root(OffsetDateTime::now_utc()).unwrap();
    let mut changes = trust.clone();
    changes.mark_unchanged();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!changes.has_changed().unwrap(), "garbage is not taken");
    cluster.patch_secret(&next.certificate, &next.key).await;
    until("the new root is taken", async || {
        trust.borrow().authority.root() != &before
    })
    .await;
    assert_eq!(trust.borrow().roots.len(), 2, "the old root is trusted too");
    let both = Some(bundle(trust));
    until("both roots are in the ConfigMap", async || {
        cluster.map(HOME).await == both
    })
    .await;
}

async fn a_deleted_secret_comes_back(cluster: &Cluster, trust: &TrustReceiver) {
    let secrets = Api::<Secret>::namespaced(cluster.admin.clone(), HOME);
    secrets
        .delete(SECRET, &DeleteParams::default())
        .await
        .unwrap();
    until("the root in use is written back", async || {
        secrets.get_opt(SECRET).await.unwrap().is_some()
    })
    .await;
    let (again, _) = cluster.store().load_or_create().await.unwrap();
    assert_eq!(again.authority.root(), trust.borrow().authority.root());
}
