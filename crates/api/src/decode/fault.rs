//! Decodes injected faults.

use std::time::Duration;

use weft_ir::{
    FaultAbort, FaultDelay, FaultHeader, FaultInjection, FaultStatus, GrpcError, HttpError, Percent,
};

use super::rules::header_name;
use super::{Decoded, invalid};
use crate::proto;
use proto::fault_abort::Status;

pub(crate) fn injection(wire: proto::FaultInjection) -> Decoded<FaultInjection> {
    let proto::FaultInjection {
        filter,
        header,
        delay,
        abort,
    } = wire;
    let header = header.map(|proto::FaultHeader { name, value }| {
        let (name, value) = (header_name(&name)?, value.map(Into::into));
        Ok(FaultHeader { name, value })
    });
    Ok(FaultInjection {
        filter: filter.into(),
        header: header.transpose()?,
        delay: delay.map(self::delay).transpose()?,
        abort: abort.map(self::abort).transpose()?,
    })
}

fn delay(wire: proto::FaultDelay) -> Decoded<FaultDelay> {
    let proto::FaultDelay {
        milliseconds,
        percent,
    } = wire;
    let share = share("fault.delay.percent", percent)?;
    let delay = FaultDelay::new(Duration::from_millis(milliseconds.into()), share);
    delay.ok_or_else(|| invalid("fault.delay.milliseconds")(&milliseconds))
}

fn abort(wire: proto::FaultAbort) -> Decoded<FaultAbort> {
    let proto::FaultAbort { status, percent } = wire;
    let status = match status {
        Some(Status::Http(number)) => HttpError::new(number)
            .map(FaultStatus::Http)
            .ok_or_else(|| invalid("fault.abort.http")(&number))?,
        Some(Status::Grpc(number)) => GrpcError::new(number)
            .map(FaultStatus::Grpc)
            .ok_or_else(|| invalid("fault.abort.grpc")(&number))?,
        None => return Err(invalid("fault.abort.status")(&"none")),
    };
    Ok(FaultAbort {
        status,
        share: share("fault.abort.percent", percent)?,
    })
}

fn share(field: &'static str, number: u32) -> Decoded<Percent> {
    Percent::new(number).ok_or_else(|| invalid(field)(&number))
}
