//! From those who tell of spans to the collector: a bounded queue and the one task that empties it.
//!
//! Whoever tells of a span never waits: what finds the queue full is dropped and counted, and so is
//! what the collector does not take in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Label, TraceMetrics};

/// So many spans wait at most. Each is about a kilobyte.
pub const WAITING: usize = 8192;

/// So many go out at once.
const AT_ONCE: usize = 512;

/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_millis(200);

/// How long the collector may take for a batch, with all that is tried again.
pub const EXPORT: Duration = Duration::from_secs(5);

/// How long a process that ends waits for the collector.
const FLUSH: Duration = Duration::from_secs(1);

/// Where spans are put. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    spans: mpsc::Sender<SpanData>,
    drops: Drops,
}

/// What was dropped, and whether somebody was told.
#[derive(Clone)]
struct Drops {
    metrics: TraceMetrics,
    told: Arc<AtomicBool>,
}

/// The other end of the queue.
pub struct Sending<E> {
    spans: mpsc::Receiver<SpanData>,
    drops: Drops,
    exporter: E,
    /// Spans that are on their way.
    under_way: u64,
}

/// An empty queue, and what sends what is put into it.
pub fn queue<E: SpanExporter>(exporter: E, metrics: TraceMetrics) -> (Queue, Sending<E>) {
    let (sender, spans) = mpsc::channel(WAITING);
    let drops = Drops { metrics, told: Arc::default() };
    (
        Queue { spans: sender, drops: drops.clone() },
        Sending { spans, drops, exporter, under_way: 0 },
    )
}

impl Queue {
    /// Takes a span, or drops it where there is no room.
    pub fn put(&self, span: SpanData) {
        match self.spans.try_send(span) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.drops.add("full", 1, &"the collector does not keep up");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => self.drops.metrics.dropped("stopped", 1),
        }
    }
}

impl Drops {
    /// Counts, and says so once until things go well again.
    fn add(&self, reason: Label, spans: u64, why: &dyn std::fmt::Display) {
        self.metrics.dropped(reason, spans);
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%why, "traces: spans are lost");
        }
    }

    fn over(&self) {
        if self.told.swap(false, Ordering::Relaxed) {
            tracing::info!("traces: the collector takes spans again");
        }
    }
}

impl<E: SpanExporter> Sending<E> {
    /// Sends until it is told to stop, and then what is left, as far as the collector takes it within
    /// a second.
    pub async fn run(mut self, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            sleep(FLUSH).await;
        };
        let in_time = tokio::select! {
            () = self.send_all(&stop) => true,
            () = late => false,
        };
        if !in_time {
            self.spans.close();
            let left = u64::try_from(self.spans.len()).unwrap_or_default() + self.under_way;
            self.drops.add("stopped", left, &"this process ends, and the collector takes its time");
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let mut batch = Vec::new();
            tokio::select! {
                () = stop.cancelled() => break,
                taken = self.spans.recv_many(&mut batch, AT_ONCE) => if taken == 0 {
                    // Nobody is left who could tell of spans.
                    break;
                }
            }
            if batch.len() < AT_ONCE {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(GATHER) => {}
                }
                self.fill(&mut batch);
            }
            self.send(batch).await;
        }
        self.spans.close();
        loop {
            let mut batch = Vec::new();
            self.fill(&mut batch);
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// Adds what waits already.
    fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < AT_ONCE
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = u64::try_from(batch.len()).unwrap_or_default();
        self.under_way = spans;
        // The exporter has a limit of its own, which does not count the time of a connect.
        match timeout(EXPORT, self.exporter.export(batch)).await {
            Ok(Ok(())) => {
                self.drops.metrics.exported(spans);
                self.drops.over();
            }
            Ok(Err(error)) => self.drops.add("refused", spans, &error),
            Err(_) => self.drops.add("refused", spans, &"the collector does not answer"),
        }
        self.under_way = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::trace::SpanId;
    use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
    use tokio::sync::Semaphore;

    use super::super::context::Context;
    use super::super::span::Draft;
    use super::*;
    use crate::core::time::StoreTime;
    use crate::metrics::Metrics;

    /// A collector that takes a batch for each permit.
    #[derive(Debug, Clone)]
    struct Collector {
        permits: Arc<Semaphore>,
        batches: Arc<Mutex<Vec<usize>>>,
        refuses: Arc<AtomicBool>,
    }

    impl Collector {
        fn new(permits: usize) -> Self {
            Self {
                permits: Arc::new(Semaphore::new(permits)),
                batches: Arc::default(),
                refuses: Arc::default(),
            }
        }

        fn taken(&self) -> Vec<usize> {
            self.batches.lock().unwrap().clone()
        }
    }

    impl SpanExporter for Collector {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.permits.acquire().await.unwrap().forget();
            if self.refuses.load(Ordering::Relaxed) {
                return Err(OTelSdkError::InternalFailure("no".to_owned()));
            }
            self.batches.lock().unwrap().push(batch.len());
            Ok(())
        }
    }

    fn span(n: u64) -> SpanData {
        let context = Context::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let context = Context { span: SpanId::from(n + 1), ..context.unwrap() };
        Draft { context, ..Draft::default() }.over(&(StoreTime(0)..StoreTime(1)))
    }

    fn count(metrics: &Metrics, line: &str) -> u64 {
        let text = metrics.render().unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        line.map_or(0, |count| count.parse().unwrap())
    }

    const EXPORTED: &str = "callplane_trace_exported_spans_total";

    fn dropped(metrics: &Metrics, reason: &str) -> u64 {
        count(metrics, &format!("callplane_trace_dropped_spans_total{{reason=\"{reason}\"}}"))
    }

    struct Place {
        metrics: Metrics,
        collector: Collector,
        queue: Queue,
        stop: CancellationToken,
        sending: tokio::task::JoinHandle<()>,
    }

    fn place(permits: usize) -> Place {
        let (metrics, collector) = (Metrics::new(), Collector::new(permits));
        let (queue, sending) = queue(collector.clone(), metrics.traces.clone());
        let stop = CancellationToken::new();
        let sending = tokio::spawn(sending.run(stop.clone()));
        Place { metrics, collector, queue, stop, sending }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_together_goes_together() {
        let place = place(9);
        (0..3).for_each(|n| place.queue.put(span(n)));
        sleep(GATHER / 2).await;
        (3..5).for_each(|n| place.queue.put(span(n)));
        sleep(GATHER * 2).await;
        assert_eq!(place.collector.taken(), [5]);
        (0..600).for_each(|n| place.queue.put(span(n)));
        sleep(GATHER * 3).await;
        assert_eq!(place.collector.taken(), [5, 512, 88]);
        assert_eq!(count(&place.metrics, EXPORTED), 605);
        assert_eq!(place.queue.spans.capacity(), WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_stands_still_holds_nobody_up_and_what_is_dropped_is_counted() {
        let place = place(0);
        place.queue.put(span(0));
        sleep(GATHER * 2).await;
        // One is on its way, and so many wait.
        (0..10_000).for_each(|n| place.queue.put(span(n)));
        assert_eq!(dropped(&place.metrics, "full"), 10_000 - u64::try_from(WAITING).unwrap());
        sleep(EXPORT).await;
        assert_eq!(dropped(&place.metrics, "refused"), 1);
        // It is there again: what waited is sent.
        place.collector.permits.add_permits(100);
        sleep(EXPORT).await;
        assert_eq!(count(&place.metrics, EXPORTED), u64::try_from(WAITING).unwrap());
    }

    /// What is logged by this thread as long as it is kept.
    fn log() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let to = Arc::clone(&log);
        let writer = tracing_subscriber::fmt().with_writer(move || Writer(Arc::clone(&to)));
        (log, tracing::subscriber::set_default(writer.finish()))
    }

    struct Writer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Writer {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_collector_refuses_is_dropped_counted_and_said_once() {
        let (log, _kept) = log();
        let place = place(9);
        place.collector.refuses.store(true, Ordering::Relaxed);
        place.queue.put(span(0));
        sleep(GATHER * 2).await;
        (1..3).for_each(|n| place.queue.put(span(n)));
        sleep(GATHER * 2).await;
        let said = |what| String::from_utf8_lossy(&log.lock().unwrap()).matches(what).count();
        assert_eq!((said("spans are lost"), said("takes spans again")), (1, 0));
        assert_eq!((dropped(&place.metrics, "refused"), count(&place.metrics, EXPORTED)), (3, 0));
        place.collector.refuses.store(false, Ordering::Relaxed);
        place.queue.put(span(4));
        sleep(GATHER * 2).await;
        assert_eq!((dropped(&place.metrics, "refused"), count(&place.metrics, EXPORTED)), (3, 1));
        assert_eq!((said("spans are lost"), said("takes spans again")), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_ends_sends_what_is_left_at_once() {
        let place = place(9);
        (0..600).for_each(|n| place.queue.put(span(n)));
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        place.stop.cancel();
        place.sending.await.unwrap();
        assert_eq!(place.collector.taken().iter().sum::<usize>(), 600);
        assert_eq!(began.elapsed(), Duration::ZERO);
        place.queue.put(span(9));
        assert_eq!(dropped(&place.metrics, "stopped"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_stands_still_does_not_hold_an_end_up() {
        let place = place(0);
        (0..600).for_each(|n| place.queue.put(span(n)));
        sleep(GATHER).await;
        let began = tokio::time::Instant::now();
        place.stop.cancel();
        place.sending.await.unwrap();
        assert_eq!(began.elapsed(), FLUSH);
        assert_eq!(dropped(&place.metrics, "stopped"), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_left_to_tell_of_spans_nothing_is_sent_and_it_ends() {
        let Place { collector, queue, sending, stop, .. } = place(9);
        queue.put(span(0));
        drop(queue);
        timeout(EXPORT, sending).await.unwrap().unwrap();
        assert_eq!(collector.taken(), [1]);
        assert!(!stop.is_cancelled());
    }
}
