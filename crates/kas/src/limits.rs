use std::time::Duration;

/// Bounds on what one request, and all requests together, may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest gRPC message accepted, in bytes; must leave room for the signed request token.
    pub message_bytes: usize,
    /// Largest signed request token, in bytes.
    pub srt_bytes: usize,
    /// Policy entries in one request.
    pub policies: usize,
    /// Key access objects in one request, over all its policies.
    pub kaos: usize,
    /// Key access objects of one request that are with key managers at the same time.
    pub concurrent_kaos: usize,
    /// Legacy keys that a key access object without a kid is tried against.
    pub legacy_keys: usize,
    /// Rewrap requests under way at the same time, over all connections.
    pub concurrent_requests: usize,
    /// HTTP/2 streams one connection may have open.
    pub streams_per_connection: u32,
    /// Header bytes of one request.
    pub header_bytes: u32,
    /// How long a request may take; a shorter `grpc-timeout` of the client wins.
    pub request_timeout: Duration,
    /// How long requests under way may still take after the signal to stop.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    /// 4 MiB messages (what gRPC libraries send by default), 1000 policies, 1000 key access
    /// objects, 16 of them at a time, 8 legacy keys, 256 requests, 30 seconds each.
    fn default() -> Self {
        Self {
            message_bytes: 4 << 20,
            srt_bytes: (4 << 20) - 1024,
            policies: 1000,
            kaos: 1000,
            concurrent_kaos: 16,
            legacy_keys: 8,
            concurrent_requests: 256,
            streams_per_connection: 256,
            header_bytes: 64 << 10,
            request_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// What is wrong with these limits, for people.
    pub(crate) fn problems(&self) -> Vec<String> {
        let counts = [
            ("srt_bytes", self.srt_bytes),
            ("policies", self.policies),
            ("kaos", self.kaos),
            ("concurrent_kaos", self.concurrent_kaos),
            ("concurrent_requests", self.concurrent_requests),
            ("streams_per_connection", self.streams_per_connection as usize),
            ("header_bytes", self.header_bytes as usize),
        ];
        let mut problems: Vec<_> = counts
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(name, _)| format!("limit {name} is 0; nothing could be served"))
            .collect();
        if self.message_bytes < self.srt_bytes {
            problems.push("limit message_bytes is below srt_bytes; raise it".into());
        }
        if self.request_timeout.is_zero() {
            problems.push("limit request_timeout is 0; every request would fail".into());
        }
        problems
    }
}
