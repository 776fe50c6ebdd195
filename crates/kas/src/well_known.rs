//! What clients read first: `wellknownconfiguration.WellKnownService`, and the same as a document.
//!
//! Both are public. What a client finds there tells it where to get a token and which key to wrap
//! with, so nothing stands in it that is not known: what cannot be read now makes the whole answer
//! fail.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use kasbah_auth::{DpopSettings, Tokens};
use kasbah_proto::{
    policy::SimpleKasKey,
    wellknownconfiguration::{
        GetWellKnownConfigurationRequest, GetWellKnownConfigurationResponse,
        well_known_service_server::{WellKnownService, WellKnownServiceServer},
    },
};
use kasbah_trust::{Error, KeyService};
use prost_types::{Struct, value::Kind};
use serde_json::{Map, Value, json};
use tonic::{Request, Response, Status, async_trait};

use crate::{BaseKey, base_key::Remembered, hand_out};

/// Path of the document.
const PATH: &str = "/.well-known/opentdf-configuration";
/// Largest request; it has no fields.
const MAX_REQUEST: usize = 1024;

/// What clients are told before they have a token.
///
/// | member | value |
/// |---|---|
/// | `platform_issuer` | who issues tokens; missing if anybody does |
/// | `idp` | what that issuer says of itself ([`kasbah_auth::Metadata`]); missing with it |
/// | `base_key` | `{}` if there is none, else `kas_uri`, `kas_id` and `public_key` with `algorithm`, `kid` and `pem`; missing if this node does not know |
/// | `health` | `{"endpoint": "/healthz"}` |
/// | `supports_dpop` | true |
/// | `dpop_signing_alg_values_supported` | the algorithms of proofs, sorted |
/// | `dpop_nonce_required` | whether proofs need a nonce of this server |
/// | `key_managers` | by `manager_0` and so on: `name` and `description` |
#[derive(Debug)]
pub struct WellKnown {
    keys: Arc<KeyService>,
    idp: Option<Idp>,
    dpop_algorithms: Vec<String>,
    dpop_nonce_required: bool,
    base_key: Option<Remembered>,
}

/// The issuer that clients are sent to for tokens.
#[derive(Debug, Clone)]
pub struct Idp {
    /// `iss` of its tokens.
    pub issuer: String,
    /// Its token endpoint, if that is configured; otherwise it is what the issuer says.
    pub token_endpoint: Option<String>,
    /// Knows what it says of itself.
    pub tokens: Arc<Tokens>,
}

impl WellKnown {
    /// What is known of any node that serves `keys`: no issuer, no base key, proofs as they are
    /// accepted if nothing is set.
    pub fn new(keys: Arc<KeyService>) -> Self {
        let dpop = DpopSettings::default();
        let (dpop_algorithms, dpop_nonce_required) = (Vec::new(), false);
        Self { keys, idp: None, dpop_algorithms, dpop_nonce_required, base_key: None }
            .dpop(dpop.algorithms, dpop.require_nonce)
    }

    /// Sends clients to this issuer.
    #[must_use]
    pub fn idp(self, idp: Idp) -> Self {
        Self { idp: Some(idp), ..self }
    }

    /// Says with which algorithms proofs of possession may be signed, and whether they need a nonce.
    #[must_use]
    pub fn dpop(self, mut algorithms: Vec<String>, nonce_required: bool) -> Self {
        algorithms.sort_unstable();
        algorithms.dedup();
        Self { dpop_algorithms: algorithms, dpop_nonce_required: nonce_required, ..self }
    }

    /// Says what the base key is. While it cannot be read the one that was read before is given, for
    /// up to `stale_limit`; after that the whole answer fails, as it does when none was ever read.
    #[must_use]
    pub fn base_key(self, source: Arc<dyn BaseKey>, stale_limit: Duration) -> Self {
        Self { base_key: Some(Remembered::new(source, stale_limit)), ..self }
    }

    /// The service over gRPC.
    pub fn server(self: &Arc<Self>) -> WellKnownServiceServer<Self> {
        WellKnownServiceServer::from_arc(Arc::clone(self)).max_decoding_message_size(MAX_REQUEST)
    }

    /// `GET /.well-known/opentdf-configuration`: the same as JSON, without a message around it. 503
    /// while the base key cannot be read.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route(PATH, get(document)).with_state(Arc::clone(self))
    }

    async fn members(&self) -> Result<Map<String, Value>, Status> {
        let mut members = Map::new();
        let mut add = |name: &str, value| members.insert(name.to_owned(), value);
        if let Some(base_key) = &self.base_key {
            let key = base_key.get().await.map_err(|error| status(&error))?;
            add("base_key", key.map_or_else(|| json!({}), |key| base_key_of(&key)));
        }
        if let Some(idp) = &self.idp {
            add("platform_issuer", idp.issuer.as_str().into());
            add("idp", idp.members().await.into());
        }
        add("health", json!({ "endpoint": "/healthz" }));
        add("supports_dpop", true.into());
        add("dpop_signing_alg_values_supported", self.dpop_algorithms.clone().into());
        add("dpop_nonce_required", self.dpop_nonce_required.into());
        add("key_managers", self.key_managers().into());
        Ok(members)
    }

    fn key_managers(&self) -> Map<String, Value> {
        let names = self.keys.managers().enumerate();
        let about = |(number, name): (usize, &str)| {
            let manager = json!({ "name": name, "description": format!("Key manager: {name}") });
            (format!("manager_{number}"), manager)
        };
        names.map(about).collect()
    }
}

impl Idp {
    async fn members(&self) -> Map<String, Value> {
        let known = self.tokens.metadata(&self.issuer).await;
        let mut members = known.map(|known| known.members().clone()).unwrap_or_default();
        members.insert("issuer".to_owned(), self.issuer.as_str().into());
        if let Some(endpoint) = &self.token_endpoint {
            members.insert("token_endpoint".to_owned(), endpoint.as_str().into());
        }
        members
    }
}

#[async_trait]
impl WellKnownService for WellKnown {
    async fn get_well_known_configuration(
        &self,
        _: Request<GetWellKnownConfigurationRequest>,
    ) -> Result<Response<GetWellKnownConfigurationResponse>, Status> {
        let configuration = Some(fields(self.members().await?));
        Ok(Response::new(GetWellKnownConfigurationResponse { configuration }))
    }
}

type Document = (StatusCode, [(HeaderName, &'static str); 1], String);

async fn document(State(known): State<Arc<WellKnown>>) -> Document {
    let (code, document): (_, Value) = match known.members().await {
        Ok(members) => (StatusCode::OK, members.into()),
        Err(status) => {
            let error = json!({ "code": "unavailable", "message": status.message() });
            (StatusCode::SERVICE_UNAVAILABLE, error)
        }
    };
    (code, [(CONTENT_TYPE, "application/json")], document.to_string())
}

/// `base_key` as SDKs read it.
fn base_key_of(key: &SimpleKasKey) -> Value {
    let public_key = key.public_key.clone().unwrap_or_default();
    json!({
        "kas_uri": key.kas_uri,
        "kas_id": key.kas_id,
        "public_key": {
            "algorithm": hand_out::identifier(public_key.algorithm).unwrap_or_default(),
            "kid": public_key.kid,
            "pem": public_key.pem,
        },
    })
}

/// The reason is in the log.
fn status(_: &Error) -> Status {
    Status::unavailable("the base key cannot be read now; try again later")
}

fn fields(members: Map<String, Value>) -> Struct {
    let fields = members.into_iter().map(|(name, value)| (name, message(value)));
    Struct { fields: fields.collect::<BTreeMap<_, _>>() }
}

/// `google.protobuf.Value` of a JSON value.
fn message(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(message).collect(),
        }),
        Value::Object(members) => Kind::StructValue(fields(members)),
    };
    prost_types::Value { kind: Some(kind) }
}
