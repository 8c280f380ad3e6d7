use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;

use futures::FutureExt;

use super::*;
use crate::telemetry::limits::LimitMetrics;

type Entering = Pin<Box<dyn Future<Output = Result<Admission, AtLimit>>>>;

fn limit(most: u32, queue: Option<(u32, u64)>) -> RequestLimit {
    let count = |number| NonZeroU32::new(number).unwrap();
    let queue = queue
        .map(|(length, millis)| Queue::new(count(length), Duration::from_millis(millis)).unwrap());
    RequestLimit {
        max_requests: count(most),
        queue,
    }
}

fn limiter(limit: RequestLimit) -> Arc<Limiter> {
    Limiter::new(Limited::ServerRequests, limit, Gauge::default())
}

/// Enters as far as it goes without a wait.
fn entering(limiter: &Arc<Limiter>) -> Entering {
    let limiter = Arc::clone(limiter);
    let mut entering: Entering = Box::pin(async move { limiter.enter().await });
    assert!((&mut entering).now_or_never().is_none(), "it does not wait");
    entering
}

fn is_admitted(entering: &mut Entering) -> Option<Admission> {
    entering.now_or_never().map(Result::unwrap)
}

async fn failure(entering: impl Future<Output = Result<Admission, AtLimit>>) -> String {
    entering.await.unwrap_err().to_string()
}

#[tokio::test]
async fn without_a_queue_what_is_beyond_fails_at_once() {
    let limiter = limiter(limit(2, None));
    let (first, _second) = (limiter.try_enter().unwrap(), limiter.enter().await.unwrap());
    let words = failure(limiter.enter()).await;
    assert_eq!(words, "limits.server: 2 requests are under way");
    drop(first);
    limiter.enter().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_admitted_in_the_order_of_arrival() {
    let limiter = limiter(limit(1, Some((3, 1_000))));
    let place = limiter.enter().await.unwrap();
    let mut waiting = [0; 3].map(|_| entering(&limiter));
    let words = failure(limiter.enter()).await;
    assert_eq!(words, "limits.server: 1 requests are under way, and 3 wait");
    assert_eq!(limiter.waiting.get(), 3);
    drop(place);
    for place in 0..3 {
        let later = waiting.iter_mut().skip(place + 1);
        assert!(later.map(is_admitted).all(|admitted| admitted.is_none()));
        // Nobody comes between.
        assert!(limiter.try_enter().is_err());
        drop(is_admitted(&mut waiting[place]).unwrap());
    }
    assert_eq!(limiter.waiting.get(), 0);
    limiter.try_enter().unwrap();
}

#[tokio::test(start_paused = true)]
async fn wait_ends_with_its_time() {
    let limiter = limiter(limit(1, Some((1, 250))));
    let _place = limiter.enter().await.unwrap();
    let before = tokio::time::Instant::now();
    let words = failure(limiter.enter()).await;
    assert_eq!(
        words,
        "limits.server: 1 requests are under way, and none ended within 250ms"
    );
    assert_eq!(before.elapsed(), Duration::from_millis(250));
    assert_eq!(limiter.waiting.get(), 0);
    // Its place in the queue is free again.
    drop(entering(&limiter));
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_its_place_to_the_next() {
    let limiter = limiter(limit(1, Some((2, 1_000))));
    let place = limiter.enter().await.unwrap();
    let (first, mut second) = (entering(&limiter), entering(&limiter));
    drop(first);
    drop(place);
    let place = is_admitted(&mut second).unwrap();
    // Also when it is admitted, and does not know yet.
    let (first, mut second) = (entering(&limiter), entering(&limiter));
    drop(place);
    drop(first);
    drop(is_admitted(&mut second).unwrap());
    assert_eq!(limiter.state().under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn changed_limit_counts_what_is_under_way() {
    let limiter = limiter(limit(3, Some((5, 1_000))));
    let mut places = [0; 3].map(|_| Some(limiter.try_enter().unwrap()));
    limiter.set(Some(limit(2, Some((5, 1_000)))));
    let (mut first, mut second) = (entering(&limiter), entering(&limiter));
    places[0] = None;
    assert!(is_admitted(&mut first).is_none(), "2 are under way");
    places[1] = None;
    let _first = is_admitted(&mut first).unwrap();
    assert!(is_admitted(&mut second).is_none());
    limiter.set(Some(limit(3, None)));
    let _second = is_admitted(&mut second).unwrap();
    assert!(limiter.try_enter().is_err());
}

#[tokio::test(start_paused = true)]
async fn removed_limit_admits_all_who_wait() {
    let metrics = LimitMetrics::default();
    let limits = |requests| weft_ir::ClientLimits {
        max_connections: None,
        requests,
    };
    let none = ClientLimiters::default();
    let limited = none.changed(&limits(Some(limit(1, Some((5, 1_000))))), &metrics);
    let requests = limited.requests.clone().unwrap();
    let _place = requests.try_enter().unwrap();
    let mut waiting = [0; 3].map(|_| entering(&requests));
    assert_eq!(metrics.waiting_at_client.get(), 3);
    // The same limiter goes on after a change.
    let changed = limited.changed(&limits(Some(limit(2, None))), &metrics);
    assert!(Arc::ptr_eq(&requests, changed.requests.as_ref().unwrap()));
    let _first = is_admitted(&mut waiting[0]).unwrap();
    assert!(is_admitted(&mut waiting[1]).is_none());
    assert!(changed.changed(&limits(None), &metrics).requests.is_none());
    let _rest: Vec<Admission> = waiting[1..]
        .iter_mut()
        .map(|one| is_admitted(one).unwrap())
        .collect();
    assert_eq!(metrics.waiting_at_client.get(), 0);
}

#[test]
fn ports_of_a_server_have_limits_of_their_own() {
    let (limiters, metrics) = (ServerLimiters::default(), LimitMetrics::default());
    assert!(limiters.of(80).is_none());
    let one = limit(1, None);
    limiters.set(&[(80, one), (81, one)].into(), &metrics);
    let (http, more) = (limiters.of(80).unwrap(), limiters.of(81).unwrap());
    assert!(limiters.of(82).is_none() && !Arc::ptr_eq(&http, &more));
    let _place = http.try_enter().unwrap();
    assert!(http.try_enter().is_err() && more.try_enter().is_ok());
    limiters.set(&[(80, limit(2, None))].into(), &metrics);
    assert!(Arc::ptr_eq(&limiters.of(80).unwrap(), &http));
    let _second = http.try_enter().unwrap();
    assert!(http.try_enter().is_err() && limiters.of(81).is_none());
    limiters.set(&BTreeMap::new(), &metrics);
    assert!(limiters.of(80).is_none() && http.try_enter().is_ok());
}

/// Tickets, places and the queue agree, whoever comes and goes on however many threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_than_the_limit_are_under_way() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    let limiter = limiter(limit(3, Some((1_000, 60_000))));
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let (limiter, now, most) = (limiter.clone(), now.clone(), most.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    let entering = limiter.enter();
                    if (number + round) % 3 == 0 {
                        // It goes away at once.
                        drop(entering.now_or_never());
                        continue;
                    }
                    let _place = entering.await.unwrap();
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::task::yield_now().await;
                    now.fetch_sub(1, SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(most.load(SeqCst), 3);
    let state = limiter.state();
    assert_eq!((state.under_way, state.queue.len()), (0, 0));
    assert_eq!(limiter.waiting.get(), 0);
}
