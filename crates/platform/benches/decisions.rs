//! One question to a platform over loopback gRPC. The platform is a stand-in that permits
//! everything at once, so that what is measured is this side and the connection.
//!
//! `cargo bench -p kasbah-platform`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use kasbah_access::{Decisions, Question, Subject};
use kasbah_platform::{Connection, DecisionSettings, PlatformDecisions};
use kasbah_proto::authorization::v2::{
    GetDecisionMultiResourceRequest, GetDecisionMultiResourceResponse, GetDecisionRequest,
    GetDecisionResponse, Resource, ResourceDecision,
    authorization_service_server::{AuthorizationService, AuthorizationServiceServer},
};
use secrecy::SecretString;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

struct StandIn;

#[tonic::async_trait]
impl AuthorizationService for StandIn {
    async fn get_decision(
        &self,
        request: Request<GetDecisionRequest>,
    ) -> Result<Response<GetDecisionResponse>, Status> {
        let decision = request.into_inner().resource.map(permit);
        Ok(Response::new(GetDecisionResponse { decision }))
    }

    async fn get_decision_multi_resource(
        &self,
        request: Request<GetDecisionMultiResourceRequest>,
    ) -> Result<Response<GetDecisionMultiResourceResponse>, Status> {
        let resource_decisions = request.into_inner().resources.into_iter().map(permit).collect();
        let all_permitted = Some(true);
        Ok(Response::new(GetDecisionMultiResourceResponse { all_permitted, resource_decisions }))
    }
}

fn permit(resource: Resource) -> ResourceDecision {
    let ephemeral_resource_id = resource.ephemeral_id;
    ResourceDecision { ephemeral_resource_id, decision: 2, required_obligations: Vec::new() }
}

async fn serve() -> PlatformDecisions {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = AuthorizationServiceServer::new(StandIn);
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::spawn(serving);
    let endpoint = format!("http://{address}").parse().expect("a URI");
    let connection = Connection { endpoint, ca_file: None, auth: None };
    PlatformDecisions::new(&connection, DecisionSettings::default()).expect("decisions")
}

fn resources(count: usize, attributes: usize) -> Vec<Vec<String>> {
    let fqn = |n| format!("https://example.com/attr/classification/value/level-{n}");
    vec![(0..attributes).map(fqn).collect(); count]
}

async fn ask(decisions: &PlatformDecisions, subject: &Subject, resources: &[Vec<String>]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let question = Question { subject, resources, fulfillable: &[], deadline };
    let answer = decisions.decide(question).await.expect("decisions");
    assert!(answer.iter().all(|decision| decision.permit));
}

fn question(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let decisions = runtime.block_on(serve());
    let subject = Subject {
        claims: Arc::default(),
        client_id: "sdk".to_owned(),
        token: Arc::new(SecretString::from("t".repeat(1_200))),
    };
    for concurrent in [1, 64] {
        let mut group = c.benchmark_group(format!("{concurrent} at once"));
        group.throughput(Throughput::Elements(concurrent));
        for (count, attributes) in [(1, 1), (1, 10), (10, 1)] {
            let resources = resources(count, attributes);
            let name = format!("{count} resources of {attributes} attributes");
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    let asking = (0..concurrent).map(|_| ask(&decisions, &subject, &resources));
                    runtime.block_on(join_all(asking))
                });
            });
        }
    }
}

criterion_group!(benches, question);
criterion_main!(benches);
