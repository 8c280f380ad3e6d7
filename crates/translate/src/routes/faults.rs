//! FaultFilters: what rules inject that name them, or why they are invalid.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use weft_ir::{
    FaultAbort, FaultDelay, FaultHeader, FaultInjection, FaultStatus, GrpcError, HttpError,
};
use weft_policy::FaultFilterSpec;

use super::values::{duration, percent};
use crate::memo::{ByIdentity, ObjectMemo};
use crate::objects;

/// Most bytes of the value of a header.
const MAX_VALUE: usize = 4096;

/// What a FaultFilter says, or what is wrong with it.
pub(crate) type FaultFilter = Result<Arc<FaultInjection>, String>;

/// Namespace and name.
pub(super) type FaultFilterId = (String, String);

/// The filters.
#[derive(Debug, Default)]
pub(crate) struct FaultFilters(HashMap<FaultFilterId, Arc<FaultFilter>>);

impl FaultFilters {
    pub(super) fn get(&self, id: &FaultFilterId) -> Option<&Arc<FaultFilter>> {
        self.0.get(id)
    }
}

/// The last translation of each filter.
pub(crate) type FaultCache = ObjectMemo<objects::FaultFilter, (), NamedFilter>;

type NamedFilter = (FaultFilterId, Arc<FaultFilter>);

/// Reads the filters that have changed.
pub(crate) fn fault_filters(
    cache: &mut FaultCache,
    objects: &[Arc<objects::FaultFilter>],
) -> ByIdentity<FaultFilters> {
    let all = cache.map(objects, (), |of| {
        let objects::FaultFilter { metadata, spec } = &**of;
        let id = (metadata.namespace.clone(), metadata.name.clone());
        let name = format!("{}/{}", metadata.namespace, metadata.name);
        let read = match spec.as_ref() {
            Ok(spec) => read(&name, spec).map(Arc::new),
            Err(why) => Err(format!(
                "spec: {why}; correct it, or upgrade Weft if its definitions are newer"
            )),
        };
        (id, Arc::new(read))
    });
    ByIdentity(Arc::new(FaultFilters(all.into_iter().collect())))
}

fn read(name: &str, spec: &FaultFilterSpec) -> Result<FaultInjection, String> {
    let FaultFilterSpec {
        header,
        delay,
        abort,
    } = spec;
    if delay.is_none() && abort.is_none() {
        return Err("spec: delay or abort is required".to_owned());
    }
    Ok(FaultInjection {
        filter: Arc::from(name),
        header: header.as_ref().map(read_header).transpose()?,
        delay: delay.as_ref().map(read_delay).transpose()?,
        abort: abort.as_ref().map(read_abort).transpose()?,
    })
}

fn read_header(of: &weft_policy::FaultHeader) -> Result<FaultHeader, String> {
    let weft_policy::FaultHeader { name, value } = of;
    let parsed = HeaderName::try_from(name.as_str());
    if value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
        return Err(format!("header.value: it has more than {MAX_VALUE} bytes"));
    }
    let is_value = |value: &String| HeaderValue::try_from(value.as_str()).is_ok();
    if !value.as_ref().is_none_or(is_value) {
        return Err("header.value: it is not a header value".to_owned());
    }
    Ok(FaultHeader {
        name: parsed.map_err(|_| format!("header.name: {name:?} is not a header name"))?,
        value: value.as_deref().map(Arc::from),
    })
}

fn read_delay(of: &weft_policy::FaultDelay) -> Result<FaultDelay, String> {
    let weft_policy::FaultDelay {
        duration: text,
        percentage,
    } = of;
    let share = percent(percentage.unwrap_or(100), 0, "delay", "percentage")?;
    let delay = duration(text).and_then(|time| FaultDelay::new(time, share));
    delay.ok_or_else(|| {
        format!(
            "delay.duration: {text:?} is not a duration such as \"100ms\", of {:?} to {:?}",
            FaultDelay::LEAST,
            FaultDelay::MOST
        )
    })
}

fn read_abort(of: &weft_policy::FaultAbort) -> Result<FaultAbort, String> {
    let weft_policy::FaultAbort {
        http_status,
        grpc_status,
        percentage,
    } = of;
    let status = match (*http_status, *grpc_status) {
        (Some(number), None) => {
            let status = HttpError::new(number).map(FaultStatus::Http);
            status.ok_or_else(|| format!("abort.httpStatus: {number} is not from 400 to 599"))?
        }
        (None, Some(number)) => {
            let status = GrpcError::new(number).map(FaultStatus::Grpc);
            status.ok_or_else(|| format!("abort.grpcStatus: {number} is not from 1 to 16"))?
        }
        _ => return Err("abort: exactly one of httpStatus and grpcStatus is required".to_owned()),
    };
    let share = percent(percentage.unwrap_or(100), 0, "abort", "percentage")?;
    Ok(FaultAbort { status, share })
}
