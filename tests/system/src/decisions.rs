//! What is decided on: policies with attributes, requests that say which obligations a client can
//! fulfil; and a stand-in for the `authorization.v2` of a platform, which injects faults.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, Header};
use kasbah_proto::{
    authorization::v2::{
        Decision, EntityIdentifier, GetDecisionMultiResourceRequest,
        GetDecisionMultiResourceResponse, GetDecisionRequest, GetDecisionResponse, Resource,
        ResourceDecision,
        authorization_service_server::{AuthorizationService, AuthorizationServiceServer},
        entity_identifier::Identifier,
        resource,
    },
    kas::{
        KeyAccessRewrapResult, RewrapRequest, RewrapResponse,
        access_service_client::AccessServiceClient, key_access_rewrap_result,
    },
    policy::Action,
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Runtime},
    sync::Barrier,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Server, server::TcpIncoming},
};

use crate::{
    client::SessionKey,
    issuer::{Issuer, now},
};

/// UUID of every [`policy`].
pub const POLICY_ID: &str = "11111111-2222-3333-4444-555555555555";
/// The obligation of the stand-in.
pub const WATERMARK: &str = "https://acme.example/obl/drm/value/watermark";

/// base64 of a policy with these attribute values.
pub fn policy(fqns: &[&str]) -> String {
    let attributes: Vec<_> = fqns.iter().map(|fqn| json!({ "attribute": fqn })).collect();
    let body = json!({ "dataAttributes": attributes, "dissem": [] });
    BASE64_STANDARD.encode(json!({ "uuid": POLICY_ID, "body": body }).to_string())
}

/// A version 2 body with several policies, each with its key access objects; ids of both count up.
pub fn body(client: &SessionKey, policies: &[(&str, Vec<Value>)]) -> Value {
    let mut count = 0;
    let requests: Vec<_> = policies
        .iter()
        .enumerate()
        .map(|(index, (policy, kaos))| {
            let kaos: Vec<_> = kaos.iter().map(|kao| {
            count += 1;
            json!({ "keyAccessObjectId": format!("kao-{}", count - 1), "keyAccessObject": kao })
        }).collect();
            json!({
                "policy": { "id": format!("policy-{index}"), "body": policy },
                "keyAccessObjects": kaos,
            })
        })
        .collect();
    json!({ "clientPublicKey": client.pem(), "requests": requests })
}

/// The header `x-rewrap-additional-context` of a client that can fulfil these obligations.
pub fn context(fqns: &[&str]) -> String {
    BASE64_STANDARD.encode(json!({ "obligations": { "fulfillableFQNs": fqns } }).to_string())
}

/// What became of one key access object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `permit` or `fail`.
    pub status: String,
    /// `X-Required-Obligations`.
    pub obligations: Vec<String>,
    /// The data key, or the text of the error.
    pub result: Result<Vec<u8>, String>,
}

impl Told {
    /// The text of its error, behind the two words that every error begins with.
    ///
    /// # Panics
    /// When a key was released, or its status says so.
    pub fn refusal(&self) -> &str {
        assert_eq!(self.status, "fail", "{self:?}");
        let text = self.result.as_ref().expect_err("no key was released");
        text.split_once("desc = ").map_or(text, |(_, desc)| desc)
    }

    /// The data key.
    ///
    /// # Panics
    /// When it was refused, or its status says so.
    pub fn dek(&self) -> &[u8] {
        assert_eq!(self.status, "permit", "{self:?}");
        self.result.as_ref().expect("a key was released")
    }
}

/// A connection of somebody who reads.
#[derive(Clone)]
pub struct Reader {
    rpc: AccessServiceClient<Channel>,
    token: String,
    context: Option<String>,
    traceparent: Option<String>,
}

impl Reader {
    /// Connects when first used.
    ///
    /// # Panics
    /// When the URL is none.
    pub fn new(url: String, token: String) -> Self {
        let channel = Channel::from_shared(url).expect("a URL").connect_lazy();
        Self { rpc: AccessServiceClient::new(channel), token, context: None, traceparent: None }
    }

    /// The same with a header `x-rewrap-additional-context`.
    #[must_use]
    pub fn with_context(&self, header: &str) -> Self {
        Self { context: Some(header.to_owned()), ..self.clone() }
    }

    /// The same in a trace, by a header `traceparent`.
    #[must_use]
    pub fn in_trace(&self, header: &str) -> Self {
        Self { traceparent: Some(header.to_owned()), ..self.clone() }
    }

    /// Rewraps.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When a header is none.
    pub async fn rewrap(&self, body: &Value) -> Result<RewrapResponse, Status> {
        let now = now();
        let claims = json!({ "requestBody": body.to_string(), "iat": now, "exp": now + 60 });
        let signed_request_token = Issuer::new().sign(&Header::new(Algorithm::ES256), &claims);
        let mut request = Request::new(RewrapRequest { signed_request_token });
        let bearer = format!("Bearer {}", self.token).parse().expect("a header value");
        request.metadata_mut().insert("authorization", bearer);
        for (name, value) in
            [("x-rewrap-additional-context", &self.context), ("traceparent", &self.traceparent)]
        {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.parse().expect("a header value"));
            }
        }
        Ok(self.rpc.clone().rewrap(request).await?.into_inner())
    }

    /// Rewraps; what became of each key access object, in order.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When ids are not those of the request, or a released key does not open.
    pub async fn read(
        &self,
        client: &SessionKey,
        policies: &[(&str, Vec<Value>)],
    ) -> Result<Vec<Told>, Status> {
        let response = self.rewrap(&body(client, policies)).await?;
        let of = response.responses.iter().map(|policy| (&*policy.policy_id, policy.results.len()));
        let ids: Vec<_> = (0..policies.len()).map(|index| format!("policy-{index}")).collect();
        let asked = policies.iter().zip(&ids).map(|((_, kaos), id)| (&**id, kaos.len()));
        assert!(of.eq(asked), "policies are in order");
        let results = response.responses.iter().flat_map(|policy| &policy.results).enumerate();
        let told = results.map(|(index, result)| {
            assert_eq!(result.key_access_object_id, format!("kao-{index}"), "order is kept");
            told(client, result, &response.session_public_key)
        });
        Ok(told.collect())
    }
}

fn told(client: &SessionKey, result: &KeyAccessRewrapResult, session_key: &str) -> Told {
    let listed = format!("{:?}", result.metadata.get("X-Required-Obligations").expect("a list"));
    // Every text of the list, in order: nothing else in it has quotes.
    let obligations = listed.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let result_of = match result.result.as_ref().expect("a result") {
        key_access_rewrap_result::Result::Error(error) => Err(error.clone()),
        key_access_rewrap_result::Result::KasWrappedKey(wrapped) => {
            Ok(client.open(wrapped, session_key).expect("it opens"))
        }
    };
    Told { status: result.status.clone(), obligations, result: result_of }
}

/// What goes wrong until another fault, or none, is set.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A decision is neither permit nor deny.
    Neither,
    /// The last resource is left out.
    Missing,
    /// All resources are permitted under ids that nobody asked about.
    OtherIds,
    /// The call fails.
    Status(Code),
    /// Every answer takes this long.
    Slow(Duration),
    /// No answer leaves until so many questions are there.
    Together(Arc<Barrier>),
    /// The first resource is permitted twice, in place of the last.
    Twice,
}

/// One question, as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Header `authorization`.
    pub authorization: Option<String>,
    /// Header `traceparent`.
    pub traceparent: Option<String>,
    /// The token of the caller whom it is about.
    pub token: String,
    /// Name of the action.
    pub action: String,
    /// FQNs of each resource.
    pub resources: Vec<Vec<String>>,
    /// What the client can fulfil.
    pub fulfillable: Vec<String>,
}

/// A fake of a platform's `authorization.v2`, over real gRPC, that injects faults. It shows how a
/// server asks and takes answers, not how a platform decides: a value `permit` is permitted, a value
/// `obliged` too if [`WATERMARK`] can be fulfilled, and everything else is denied.
pub struct StandIn {
    state: Arc<State>,
    address: SocketAddr,
    running: Option<Runtime>,
    /// Bound but never listening, so that nobody else takes the port while this is stopped.
    _reserved: TcpSocket,
}

#[derive(Default)]
struct State {
    fault: Mutex<Option<Fault>>,
    asked: Mutex<Vec<Asked>>,
    most: AtomicUsize,
    under_way: AtomicUsize,
}

impl StandIn {
    /// One that listens.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        let reserved = bound((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = reserved.local_addr().expect("a bound socket has an address");
        let mut this = Self { state: Arc::default(), address, running: None, _reserved: reserved };
        this.start_again().await;
        this
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets what goes wrong from now on; `None` for nothing.
    pub fn set_fault(&self, fault: impl Into<Option<Fault>>) {
        *locked(&self.state.fault) = fault.into();
    }

    /// The questions since this was last called, the oldest first.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *locked(&self.state.asked))
    }

    /// The most questions that were ever under way at once.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Relaxed)
    }

    /// Closes its port and all connections, whatever is under way.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts it again where it was.
    ///
    /// # Panics
    /// When it cannot be.
    pub async fn start_again(&mut self) {
        self.stop();
        // A runtime of its own, so that stopping it ends its connections too.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (address, service) = (self.address, Service(Arc::clone(&self.state)));
        let listening = runtime.spawn(async move {
            let listener = timeout(PATIENCE, listen(address)).await.expect("its own port");
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = Server::builder().add_service(AuthorizationServiceServer::new(service));
            tokio::spawn(server.serve_with_incoming(incoming));
        });
        listening.await.expect("it listens");
        self.running = Some(runtime);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop();
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        match bound(address).and_then(|socket| socket.listen(1024)) {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Service(Arc<State>);

/// Counts down when the question is over, however it ends.
struct UnderWay<'a>(&'a State);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

impl Service {
    async fn answer(
        &self,
        asked: Asked,
        resources: &[Resource],
    ) -> Result<Vec<ResourceDecision>, Status> {
        let state = &*self.0;
        let at_once = state.under_way.fetch_add(1, Relaxed) + 1;
        state.most.fetch_max(at_once, Relaxed);
        let _under_way = UnderWay(state);
        let fulfillable = asked.fulfillable.clone();
        locked(&state.asked).push(asked);
        let mut decisions: Vec<_> =
            resources.iter().map(|resource| decide(resource, &fulfillable)).collect();
        let fault = locked(&state.fault).clone();
        match fault {
            None => {}
            Some(Fault::Missing) => drop(decisions.pop()),
            Some(Fault::Neither) => decisions.iter_mut().for_each(|made| made.decision = 9),
            Some(Fault::OtherIds) => decisions.iter_mut().for_each(|made| {
                made.decision = Decision::Permit as i32;
                made.ephemeral_resource_id.push('x');
            }),
            Some(Fault::Slow(delay)) => sleep(delay).await,
            Some(Fault::Status(code)) => return Err(Status::new(code, "an injected fault")),
            Some(Fault::Together(barrier)) => {
                barrier.wait().await;
            }
            Some(Fault::Twice) => {
                let first = decisions.first().expect("a resource").clone();
                let last = decisions.last_mut().expect("a resource");
                let once = last.ephemeral_resource_id == first.ephemeral_resource_id;
                *last = ResourceDecision { decision: Decision::Permit as i32, ..first };
                if once {
                    decisions.push(decisions.first().expect("it").clone());
                }
            }
        }
        Ok(decisions)
    }
}

fn decide(resource: &Resource, fulfillable: &[String]) -> ResourceDecision {
    let fqns = fqns(resource);
    let obliged = fqns.iter().any(|fqn| fqn.ends_with("/value/obliged"));
    let can = !obliged || fulfillable.iter().any(|fqn| fqn == WATERMARK);
    let open = fqns.iter().all(|fqn| ["permit", "obliged"].iter().any(|end| fqn.ends_with(end)));
    let decision = if open && can { Decision::Permit } else { Decision::Deny };
    ResourceDecision {
        ephemeral_resource_id: resource.ephemeral_id.clone(),
        decision: decision as i32,
        required_obligations: if obliged { vec![WATERMARK.to_owned()] } else { Vec::new() },
    }
}

fn fqns(resource: &Resource) -> Vec<String> {
    match &resource.resource {
        Some(resource::Resource::AttributeValues(values)) => values.fqns.clone(),
        other => panic!("it asks about attribute values, not {other:?}"),
    }
}

fn asked<T>(
    request: &Request<T>,
    entity: Option<&EntityIdentifier>,
    action: Option<&Action>,
    resources: &[Resource],
    fulfillable: &[String],
) -> Asked {
    let header = |name| {
        let value = request.metadata().get(name);
        value.map(|value| value.to_str().expect("text").to_owned())
    };
    let Some(Identifier::Token(token)) = entity.and_then(|entity| entity.identifier.as_ref())
    else {
        panic!("it asks about a token")
    };
    Asked {
        authorization: header("authorization"),
        traceparent: header("traceparent"),
        token: token.jwt.clone(),
        action: action.map(|action| action.name.clone()).unwrap_or_default(),
        resources: resources.iter().map(fqns).collect(),
        fulfillable: fulfillable.to_vec(),
    }
}

#[tonic::async_trait]
impl AuthorizationService for Service {
    async fn get_decision(
        &self,
        request: Request<GetDecisionRequest>,
    ) -> Result<Response<GetDecisionResponse>, Status> {
        let message = request.get_ref();
        let resources: Vec<_> = message.resource.iter().cloned().collect();
        let (entity, action) = (message.entity_identifier.as_ref(), message.action.as_ref());
        let fulfillable = &message.fulfillable_obligation_fqns;
        let asked = asked(&request, entity, action, &resources, fulfillable);
        let decision = self.answer(asked, &resources).await?.pop();
        Ok(Response::new(GetDecisionResponse { decision }))
    }

    async fn get_decision_multi_resource(
        &self,
        request: Request<GetDecisionMultiResourceRequest>,
    ) -> Result<Response<GetDecisionMultiResourceResponse>, Status> {
        let message = request.get_ref();
        let (entity, action) = (message.entity_identifier.as_ref(), message.action.as_ref());
        let fulfillable = &message.fulfillable_obligation_fqns;
        let asked = asked(&request, entity, action, &message.resources, fulfillable);
        let resource_decisions = self.answer(asked, &message.resources).await?;
        let permit = Decision::Permit as i32;
        let all_permitted = resource_decisions.iter().all(|made| made.decision == permit);
        let all_permitted = Some(all_permitted);
        Ok(Response::new(GetDecisionMultiResourceResponse { all_permitted, resource_decisions }))
    }
}
