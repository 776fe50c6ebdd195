use std::time::Duration;

use kasbah_edge::EdgeLimits;

/// How much longer than a request may take its call is kept for it, so that the answer that says so
/// still gets out.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// Bounds on what one request, and all requests together, may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest message accepted, in bytes; must leave room for the signed request token.
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
    /// Connections at the same time; more wait.
    pub connections: usize,
    /// Calls of all services under way at the same time; more are refused before their body is
    /// read.
    pub calls: usize,
    /// Bytes of bodies of calls under way, over all connections.
    pub body_bytes: usize,
    /// HTTP/2 streams one connection may have open.
    pub streams_per_connection: u32,
    /// Header bytes of one request.
    pub header_bytes: u32,
    /// How long a request may take; a shorter `grpc-timeout` of the client wins.
    pub request_timeout: Duration,
    /// How long a connection may take to its first request, the TLS handshake included.
    pub first_request_timeout: Duration,
    /// How long a connection may be open without a request under way, and how long one may take to
    /// send the header of a request.
    pub idle_timeout: Duration,
    /// How long requests under way may still take after the signal to stop.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    /// 4 MiB messages (what gRPC libraries send by default), 1000 policies, 1000 key access
    /// objects, 16 of them at a time, 8 legacy keys, 256 requests, 30 seconds each; 4096
    /// connections, 1024 calls, 256 MiB of bodies.
    fn default() -> Self {
        let edge = EdgeLimits::default();
        Self {
            message_bytes: 4 << 20,
            srt_bytes: (4 << 20) - 1024,
            policies: 1000,
            kaos: 1000,
            concurrent_kaos: 16,
            legacy_keys: 8,
            concurrent_requests: 256,
            connections: edge.connections,
            calls: edge.calls,
            body_bytes: edge.body_bytes,
            streams_per_connection: edge.streams_per_connection,
            header_bytes: edge.header_bytes,
            request_timeout: Duration::from_secs(30),
            first_request_timeout: edge.first_request_timeout,
            idle_timeout: edge.idle_timeout,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// What the edge keeps of them.
    pub(crate) fn edge(&self) -> EdgeLimits {
        EdgeLimits {
            connections: self.connections,
            calls: self.calls,
            body_bytes: self.body_bytes,
            message_bytes: self.message_bytes,
            header_bytes: self.header_bytes,
            streams_per_connection: self.streams_per_connection,
            call_timeout: self.request_timeout + ANSWER_GRACE,
            first_request_timeout: self.first_request_timeout,
            idle_timeout: self.idle_timeout,
            ..EdgeLimits::default()
        }
    }

    /// What is wrong with these limits, for people.
    pub(crate) fn problems(&self) -> Vec<String> {
        let counts = [
            ("srt_bytes", self.srt_bytes),
            ("policies", self.policies),
            ("kaos", self.kaos),
            ("concurrent_kaos", self.concurrent_kaos),
            ("concurrent_requests", self.concurrent_requests),
            ("connections", self.connections),
            ("calls", self.calls),
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
        if self.body_bytes < self.message_bytes {
            problems.push("limit body_bytes is below message_bytes; raise it".into());
        }
        for (name, value) in [
            ("request_timeout", self.request_timeout),
            ("first_request_timeout", self.first_request_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if value.is_zero() {
                problems.push(format!("limit {name} is 0; every request would fail"));
            }
        }
        problems
    }
}
