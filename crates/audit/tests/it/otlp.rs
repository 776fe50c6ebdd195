//! The copy for an OpenTelemetry collector.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kasbah_audit::{
    AuditLog, Collector, MemorySink, OpenError, OtlpSettings, Settings, SigningKey,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::any_value::Value,
};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::common::{LONG, LinesOf, NODE, keep, open, refused};

/// Keeps what it gets.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<(String, ExportLogsServiceRequest)>>>);

#[tonic::async_trait]
impl LogsService for Received {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        let token = token.unwrap_or_default().to_owned();
        self.0.lock().unwrap().push((token, request.into_inner()));
        Ok(Response::new(ExportLogsServiceResponse { partial_success: None }))
    }
}

impl Received {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = LogsServiceServer::new(self.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }
}

fn settings(address: SocketAddr, sink: MemorySink) -> Settings {
    let mut otlp = OtlpSettings::new(Collector {
        endpoint: format!("http://{address}").parse().unwrap(),
        ca_file: None,
        headers: vec![("authorization".to_owned(), SecretString::from("Bearer t"))],
        timeout: Duration::from_secs(5),
    });
    otlp.delay = Duration::from_millis(20);
    let mut settings = Settings::new(NODE, sink);
    settings.signing_key = Some(SigningKey::generate().unwrap().0);
    settings.otlp = Some(otlp);
    settings
}

async fn close(log: AuditLog) {
    tokio::task::spawn_blocking(move || log.close(LONG)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_every_line() {
    let (collector, sink) = (Received::default(), MemorySink::default());
    let address = collector.start().await;
    let log = open(settings(address, sink.clone()));
    keep(&log, 0..20).await;
    close(log.clone()).await;
    let mut bodies = Vec::new();
    for (token, request) in collector.0.lock().unwrap().iter() {
        assert_eq!(token, "Bearer t");
        for resource in &request.resource_logs {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            let instance = attributes.iter().find(|a| a.key == "service.instance.id").unwrap();
            let instance = instance.value.as_ref().unwrap().value.as_ref();
            assert_eq!(instance, Some(&Value::StringValue(NODE.to_owned())));
            for record in resource.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                assert_eq!((&*record.severity_text, record.severity_number), ("AUDIT", 10));
                let sequence = record.attributes[0].value.as_ref().unwrap().value.clone();
                let body = record.body.as_ref().unwrap().value.clone();
                let (Some(Value::IntValue(sequence)), Some(Value::StringValue(body))) =
                    (sequence, body)
                else {
                    panic!("{record:?}");
                };
                bodies.push((sequence, body.into_bytes()));
            }
        }
    }
    bodies.sort();
    let lines: Vec<_> = sink.lines().lines_of().map(<[u8]>::to_vec).collect();
    let lines: Vec<_> = (1..).zip(lines).collect();
    assert_eq!(lines.len(), 21);
    assert_eq!(bodies, lines);
    let stats = log.stats();
    assert_eq!((stats.otlp_offered, stats.otlp_sent, stats.otlp_failed), (21, 21, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_up_nothing() {
    // Takes connections and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = MemorySink::default();
    let mut settings = settings(listener.local_addr().unwrap(), sink.clone());
    settings.otlp.as_mut().unwrap().queue = 10;
    settings.close_limit = Duration::from_millis(100);
    settings.queue = 100_000;
    let log = open(settings);
    let started = Instant::now();
    keep(&log, 0..5_000).await;
    close(log.clone()).await;
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(sink.lines().lines_of().count(), 5_005);
    let stats = log.stats();
    assert_eq!((stats.otlp_offered, stats.otlp_sent), (5_005, 0));
}

#[test]
fn it_needs_a_runtime_and_headers_that_can_be_sent() {
    let address = "127.0.0.1:1".parse().unwrap();
    let error = refused(settings(address, MemorySink::default()));
    assert!(matches!(error, OpenError::Otlp(_)), "{error}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let mut wrong = settings(address, MemorySink::default());
    let value = SecretString::from("line\nfeed");
    wrong.otlp.as_mut().unwrap().collector.headers = vec![("authorization".to_owned(), value)];
    let error = refused(wrong).to_string();
    assert_eq!(error, "the name or value of header `authorization` is not allowed in HTTP");
}
