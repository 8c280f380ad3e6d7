//! Encodes injected faults.

use weft_ir::{FaultAbort, FaultDelay, FaultHeader, FaultInjection, FaultStatus};

use crate::proto;
use proto::fault_abort::Status;

pub(crate) fn injection(of: &FaultInjection) -> proto::FaultInjection {
    let FaultInjection {
        filter,
        header,
        delay,
        abort,
    } = of;
    let header = header.as_ref().map(|FaultHeader { name, value }| {
        let (name, value) = (name.to_string(), value.as_deref().map(Into::into));
        proto::FaultHeader { name, value }
    });
    proto::FaultInjection {
        filter: filter.to_string(),
        header,
        delay: delay.map(self::delay),
        abort: abort.map(self::abort),
    }
}

fn delay(of: FaultDelay) -> proto::FaultDelay {
    proto::FaultDelay {
        milliseconds: u32::try_from(of.time().as_millis()).unwrap_or(u32::MAX),
        percent: of.share().get().into(),
    }
}

fn abort(of: FaultAbort) -> proto::FaultAbort {
    let FaultAbort { status, share } = of;
    proto::FaultAbort {
        status: Some(match status {
            FaultStatus::Http(status) => Status::Http(status.get().as_u16().into()),
            FaultStatus::Grpc(status) => Status::Grpc(status.get().into()),
        }),
        percent: share.get().into(),
    }
}
