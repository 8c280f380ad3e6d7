use weft_ir::{EjectionTime, Percent};

use super::Outcome::{GatewayError, ServerError, Success};
use super::*;

const START: Timestamp = Timestamp::START;

fn second(of: u64) -> Timestamp {
    START + Duration::from_secs(of)
}

fn settings(server_errors: u32, gateway_errors: u32) -> OutlierDetection {
    let seconds = Duration::from_secs;
    OutlierDetection {
        consecutive_5xx: NonZeroU32::new(server_errors),
        consecutive_gateway_errors: NonZeroU32::new(gateway_errors),
        ejection_time: EjectionTime::new(seconds(30), seconds(100)).unwrap(),
        max_ejection_percent: Percent::new(100).unwrap(),
        panic_threshold: Percent::default(),
    }
}

fn detector(settings: OutlierDetection, endpoints: usize) -> OutlierDetector {
    let states = (0..endpoints).map(|_| Arc::default()).collect();
    OutlierDetector::new(settings, states)
}

/// Records outcomes at the same time; returns the reasons of the ejections.
fn record(detector: &OutlierDetector, outcomes: &[Outcome], now: Timestamp) -> Vec<OutlierReason> {
    let detected = outcomes
        .iter()
        .filter_map(|of| detector.record(0, *of, now));
    detected
        .filter(|of| of.ejected)
        .map(|of| of.reason)
        .collect()
}

#[test]
fn failures_in_a_row_eject_and_others_do_not() {
    use OutlierReason::{GatewayErrors, ServerErrors};
    for (limits, outcomes, expected) in [
        ((3, 0), &[ServerError; 3][..], &[ServerErrors][..]),
        (
            (3, 0),
            &[ServerError, ServerError, Success, ServerError, ServerError],
            &[],
        ),
        // A gateway error is a server error too.
        (
            (3, 0),
            &[ServerError, GatewayError, ServerError],
            &[ServerErrors],
        ),
        ((0, 2), &[GatewayError; 2], &[GatewayErrors]),
        // Another server error ends a row of gateway errors.
        ((0, 2), &[GatewayError, ServerError, GatewayError], &[]),
        ((0, 2), &[ServerError; 9], &[]),
        // Both are reached: the narrower one is named. Further failures change nothing.
        ((2, 2), &[GatewayError; 9], &[GatewayErrors]),
        ((0, 0), &[GatewayError; 9], &[]),
    ] {
        let detector = detector(settings(limits.0, limits.1), 3);
        assert_eq!(record(&detector, outcomes, START), expected, "{outcomes:?}");
        assert_eq!(detector.is_ejected(0, START), !expected.is_empty());
    }
}

#[test]
fn endpoint_is_on_trial_after_its_ejection() {
    let detector = detector(settings(5, 0), 3);
    let mut now = START;
    let mut times = Vec::new();
    record(&detector, &[ServerError; 5], now);
    for _ in 0..4 {
        let until = detector.states[0].ejected_until.load();
        times.push(until.since(now).as_secs());
        assert!(detector.is_ejected(0, now) && !detector.is_ejected(0, until));
        now = until;
        // One failure is enough.
        assert_eq!(record(&detector, &[ServerError], now).len(), 1);
    }
    assert_eq!(times, [30, 60, 100, 100]);
    now = detector.states[0].ejected_until.load();
    record(&detector, &[Success], now);
    assert!(record(&detector, &[ServerError; 4], now).is_empty());
    assert_eq!(record(&detector, &[ServerError], now).len(), 1);
    let until = detector.states[0].ejected_until.load();
    assert_eq!(until.since(now).as_secs(), 30, "a success resets the time");
}

#[test]
fn success_of_an_earlier_request_does_not_end_an_ejection() {
    let detector = detector(settings(1, 0), 3);
    record(&detector, &[ServerError, Success], START);
    assert!(detector.is_ejected(0, START));
    assert_eq!(record(&detector, &[ServerError], second(31)).len(), 1);
}

#[test]
fn share_of_ejected_endpoints_is_limited() {
    for (percent, most) in [(0, 1), (10, 1), (50, 5), (100, 10)] {
        let settings = OutlierDetection {
            max_ejection_percent: Percent::new(percent).unwrap(),
            ..settings(1, 0)
        };
        let detector = detector(settings, 10);
        let results =
            (0..10).map(|place| detector.record(place, ServerError, START).unwrap().ejected);
        assert_eq!(
            results.filter(|ejected| *ejected).count(),
            most,
            "{percent}"
        );
    }
}

#[test]
fn panic_is_decided_by_the_healthy_share_and_kept_for_a_period() {
    let with_threshold = |percent| {
        let settings = OutlierDetection {
            panic_threshold: Percent::new(percent).unwrap(),
            ..settings(1, 0)
        };
        detector(settings, 10)
    };
    assert_eq!(with_threshold(0).panics(START, || 0), (false, false));
    assert_eq!(with_threshold(50).panics(START, || 5), (false, false));
    let detector = with_threshold(50);
    let nanosecond = Duration::from_nanos(1);
    assert_eq!(detector.panics(START, || 4), (true, true));
    assert_eq!(
        detector.panics(START + (PANIC_PERIOD - nanosecond), || unreachable!()),
        (true, false)
    );
    assert_eq!(detector.panics(START + PANIC_PERIOD, || 4), (true, false));
    assert_eq!(
        detector.panics(START + PANIC_PERIOD * 3, || 5),
        (false, false)
    );
}

#[test]
fn outcome_of_grpc_is_that_of_its_status() {
    let response = |status: u16, grpc: Option<&'static str>| {
        let mut response = http::Response::builder().status(status);
        if let Some(code) = grpc {
            response = response.header("grpc-status", code);
        }
        response.body(()).unwrap()
    };
    for (grpc, status, code, expected) in [
        (false, 200, None, Some(Success)),
        (false, 404, None, Some(Success)),
        (false, 500, None, Some(ServerError)),
        (false, 501, None, Some(ServerError)),
        (false, 502, None, Some(GatewayError)),
        (false, 504, None, Some(GatewayError)),
        (false, 505, None, Some(ServerError)),
        // A header of that name means nothing outside of gRPC.
        (false, 200, Some("14"), Some(Success)),
        (true, 200, None, None),
        (true, 503, None, Some(GatewayError)),
        (true, 200, Some("0"), Some(Success)),
        (true, 200, Some("5"), Some(Success)),
        (true, 200, Some("8"), Some(Success)),
        (true, 200, Some("2"), Some(ServerError)),
        (true, 200, Some("12"), Some(ServerError)),
        (true, 200, Some("13"), Some(ServerError)),
        (true, 200, Some("4"), Some(GatewayError)),
        (true, 200, Some("14"), Some(GatewayError)),
        (true, 200, Some("99"), Some(ServerError)),
    ] {
        let outcome = Outcome::of_response(grpc, &response(status, code));
        assert_eq!(outcome, expected, "{grpc} {status} {code:?}");
    }
}
