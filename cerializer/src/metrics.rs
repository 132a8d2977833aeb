//! What the gateway counts, as Prometheus reads it.
//!
//! Invariant: labels come from the route table and from the status, never from a request's own text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the buckets. From a cached page to an upload of gigabytes.
const BUCKETS_SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Debug, Default)]
pub struct Metrics {
    routes: Mutex<BTreeMap<(String, &'static str), Route>>,
    pub requests_in_flight: AtomicU64,
    pub connections: AtomicU64,
    pub connections_refused: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
}

#[derive(Debug, Default)]
struct Route {
    statuses: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS_SECONDS.len()],
    count: u64,
    sum_seconds: f64,
}

impl Metrics {
    /// Counts a request by the time until its answer began.
    pub fn observe(&self, route: &str, method: &'static str, status: u16, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry((route.to_string(), method)).or_default();
        *route.statuses.entry(status).or_default() += 1;
        for (bucket, end) in route.buckets.iter_mut().zip(BUCKETS_SECONDS) {
            *bucket += u64::from(seconds <= end);
        }
        route.count += 1;
        route.sum_seconds += seconds;
    }

    pub fn render(&self, connected: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, connected);
        text
    }

    fn write(&self, text: &mut String, connected: bool) -> std::fmt::Result {
        let single: [(&str, &str, &str, u64); 6] = [
            (
                "bark_http_requests_in_flight",
                "gauge",
                "Requests being answered",
                load(&self.requests_in_flight),
            ),
            (
                "bark_http_connections",
                "gauge",
                "Open connections",
                load(&self.connections),
            ),
            (
                "bark_http_connections_refused_total",
                "counter",
                "Connections closed because there were too many",
                load(&self.connections_refused),
            ),
            (
                "bark_http_received_bytes_total",
                "counter",
                "Bytes of files and values received",
                load(&self.bytes_received),
            ),
            (
                "bark_http_sent_bytes_total",
                "counter",
                "Bytes of files and values sent",
                load(&self.bytes_sent),
            ),
            (
                "bark_cluster_connected",
                "gauge",
                "1 once a node has answered",
                u64::from(connected),
            ),
        ];
        for (name, kind, help, value) in single {
            writeln!(
                text,
                "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}"
            )?;
        }
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(text, "# HELP bark_http_requests_total Requests answered.")?;
        writeln!(text, "# TYPE bark_http_requests_total counter")?;
        for ((route, method), counted) in &*routes {
            for (status, count) in &counted.statuses {
                writeln!(
                    text,
                    "bark_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}"
                )?;
            }
        }
        let name = "bark_http_request_seconds";
        writeln!(
            text,
            "# HELP {name} Time until the answer began.\n# TYPE {name} histogram"
        )?;
        for ((route, method), counted) in &*routes {
            let labels = format!("route=\"{route}\",method=\"{method}\"");
            for (bucket, end) in counted.buckets.iter().zip(BUCKETS_SECONDS) {
                writeln!(text, "{name}_bucket{{{labels},le=\"{end}\"}} {bucket}")?;
            }
            writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", counted.count)?;
            writeln!(text, "{name}_sum{{{labels}}} {}", counted.sum_seconds)?;
            writeln!(text, "{name}_count{{{labels}}} {}", counted.count)?;
        }
        Ok(())
    }
}

fn load(counter: &AtomicU64) -> u64 {
    // Relaxed: counters order nothing.
    counter.load(Ordering::Relaxed)
}

/// Counts one more while it lives.
pub struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub fn new(counter: &'a AtomicU64) -> Counted<'a> {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        // Goal: a scraper's quantiles are right. Method: three requests around the ends of buckets.
        let metrics = Metrics::default();
        for millis in [1, 2, 60_000] {
            metrics.observe("/v1/keys/{key}", "GET", 200, Duration::from_millis(millis));
        }
        let text = metrics.render(true);
        let labels = "route=\"/v1/keys/{key}\",method=\"GET\"";
        for line in [
            format!("bark_http_requests_total{{{labels},status=\"200\"}} 3"),
            format!("bark_http_request_seconds_bucket{{{labels},le=\"0.001\"}} 1"),
            format!("bark_http_request_seconds_bucket{{{labels},le=\"30\"}} 2"),
            format!("bark_http_request_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            "bark_cluster_connected 1".to_string(),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }
}
