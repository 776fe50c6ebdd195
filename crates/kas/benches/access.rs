//! What access costs beside the private-key operation that it guards: a rewrap over gRPC on loopback
//! with a policy of no attributes and of ten, and with a bearer token and a bound one.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot start has failed")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use criterion::{Criterion, criterion_group, criterion_main};
use kasbah_access::{Entitlements, LocalDecisions, LocalOptions};
use kasbah_auth::{
    DpopSettings, Gate, IssuerSettings, KeySource, MemoryReplay, Proofs, RolePolicy, TokenRules,
    Tokens,
};
use kasbah_basic::{BasicFactory, RootKeys, wrap_private_key};
use kasbah_crypto::{PrivateKey, PrivateKeyParts, binding, envelope::RootKey};
use kasbah_issuer::{Issuer, Settings, SigningKeys};
use kasbah_kas::{AccessRules, Kas, Keyring, MemorySink};
use kasbah_proto::kas::{
    RewrapRequest, access_service_client::AccessServiceClient, key_access_rewrap_result,
};
use kasbah_testkit::proofs::ProofSigner;
use kasbah_trust::{
    Algorithm, Dek, KeyDetails, KeyMode, KeyStatus, PrivateKeyRef, PublicKey, WrappedDek,
};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Request, transport::Channel};

const URI: &str = "http://localhost:8080";
const URL: &str = "http://localhost:8080/kas.AccessService/Rewrap";
const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const ATTRIBUTES: usize = 10;

/// Everything that a request is made of.
struct Rig {
    runtime: Runtime,
    client: AccessServiceClient<Channel>,
    issuer: Issuer,
    private: PrivateKey,
    key: PublicKey,
    session: PublicKey,
    signer: ProofSigner,
}

impl Rig {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let keys = SigningKeys::generate().unwrap();
        let settings = Settings::new((Ipv4Addr::LOCALHOST, 9).into(), vec!["kas".into()], keys);
        let issuer = Issuer::new(settings).unwrap();
        let parts = PrivateKeyParts::generate(Algorithm::Rsa2048).unwrap();
        let kas = runtime.block_on(kas(&issuer, &parts));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(kas.serve(listener, std::future::pending()));
        let client = runtime.block_on(AccessServiceClient::connect(address)).unwrap();
        let session = PrivateKeyParts::generate(Algorithm::Rsa2048).unwrap().public_key();
        let private = PrivateKey::from_pem(&parts.to_pem().unwrap()).unwrap();
        let (key, signer) = (parts.public_key(), ProofSigner::new());
        Self { runtime, client, issuer, private, key, session, signer }
    }

    /// A signed request token for one data key under a policy of `attributes` attributes.
    fn request(&self, attributes: usize) -> String {
        let attributes: Vec<_> =
            (0..attributes).map(|index| json!({ "attribute": fqn(index) })).collect();
        let policy = json!({ "body": { "dataAttributes": attributes } });
        let policy = STANDARD.encode(policy.to_string());
        let dek = Dek::generate().unwrap();
        let WrappedDek::Rsa(wrapped) = self.key.wrap(&dek).unwrap() else { unreachable!() };
        let hash = STANDARD.encode(hex::encode(*binding::compute(&dek, &policy)));
        let kao = json!({ "keyAccessObjectId": "k", "keyAccessObject": {
            "type": "wrapped", "kid": "r1", "wrappedKey": STANDARD.encode(wrapped),
            "policyBinding": { "alg": "HS256", "hash": hash },
        }});
        let body = json!({ "clientPublicKey": self.session.to_pem(), "requests": [
            { "policy": { "id": "p", "body": policy }, "keyAccessObjects": [kao] },
        ]});
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({ "requestBody": body.to_string(), "iat": now, "exp": now + 600 });
        self.signer.sign(&json!({ "alg": "ES256" }), &claims)
    }

    /// Rewraps, which has to work.
    fn rewrap(&self, srt: &str, scheme: &str, token: &str, proof: Option<&str>) {
        let mut request = Request::new(RewrapRequest { signed_request_token: srt.to_owned() });
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("{scheme} {token}").parse().unwrap());
        if let Some(proof) = proof {
            metadata.insert("dpop", proof.parse().unwrap());
        }
        let mut client = self.client.clone();
        let response = self.runtime.block_on(client.rewrap(request)).unwrap().into_inner();
        let result = &response.responses[0].results[0].result;
        assert!(matches!(result, Some(key_access_rewrap_result::Result::KasWrappedKey(_))));
    }

    fn token(&self, bound_to: Option<&str>) -> String {
        let claims: Map<String, Value> =
            json!({ "groups": ["team"] }).as_object().cloned().unwrap();
        self.issuer.token("client", claims, bound_to).unwrap()
    }
}

fn fqn(index: usize) -> String {
    format!("https://acme.test/attr/a{index}/value/v")
}

/// A hundred attributes, of which a policy has ten.
fn entitlements() -> Entitlements {
    let mut text = "attributes:\n".to_owned();
    for index in 0..100 {
        write!(
            text,
            "  - fqn: https://acme.test/attr/a{index}\n    rule: all_of\n    values:\n      - value: v\n        \
             subject_mappings:\n          - actions: [read]\n            subject_sets:\n              \
             - groups:\n                  - operator: and\n                    conditions:\n                      \
             - {{ selector: \".groups[]\", operator: in, values: [team] }}\n"
        )
        .unwrap();
    }
    Entitlements::parse(&text).unwrap()
}

async fn kas(issuer: &Issuer, parts: &PrivateKeyParts) -> Kas {
    let root = || RootKey::from_hex(ROOT).unwrap();
    let key = KeyDetails {
        kas_uri: URI.into(),
        kid: "r1".into(),
        algorithm: Algorithm::Rsa2048,
        mode: KeyMode::ConfigRootKey,
        status: KeyStatus::Active,
        legacy: false,
        public_key: parts.public_key(),
        private_key: PrivateKeyRef {
            key_id: Some("root".into()),
            wrapped_key: Some(wrap_private_key(&root(), &parts.to_pem().unwrap()).unwrap()),
        },
        provider: None,
    };
    let roots = RootKeys::new("root".into(), BTreeMap::from([("root".into(), root())])).unwrap();
    let settings = IssuerSettings {
        issuer: issuer.url().to_owned(),
        audience: "kas".to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Jwks(issuer.jwks().to_string()),
    };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    let dpop = DpopSettings { origins: vec![URI.to_owned()], ..DpopSettings::default() };
    let proofs = Proofs::new(dpop, Arc::new(MemoryReplay::new(10_000_000, 10_000_000))).unwrap();
    let gate = Gate::new(Arc::new(tokens), proofs, RolePolicy::built_in("").await.unwrap());
    let decisions = LocalDecisions::new(entitlements(), LocalOptions::default());
    Kas::builder()
        .uri(URI)
        .key_manager(
            kasbah_basic::MANAGER,
            &kasbah_basic::ALGORITHMS,
            Arc::new(BasicFactory::new(roots)),
        )
        .default_manager(kasbah_basic::MANAGER)
        .key_index(Arc::new(Keyring::new(URI, vec![key]).unwrap()))
        .gate(Arc::new(gate))
        .access(AccessRules { decisions: Some(Arc::new(decisions)), ..AccessRules::default() })
        .audit(Arc::new(MemorySink::default()))
        .build()
        .unwrap()
}

fn access(c: &mut Criterion) {
    let rig = Rig::new();
    let mut group = c.benchmark_group("access");
    group.measurement_time(Duration::from_secs(5));

    let dek = Dek::generate().unwrap();
    let wrapped = rig.key.wrap(&dek).unwrap();
    group.bench_function("raw RSA-2048 private operation", |b| {
        b.iter(|| rig.private.unwrap_dek(&wrapped).unwrap());
    });
    let token = rig.token(None);
    for attributes in [0, ATTRIBUTES] {
        let srt = rig.request(attributes);
        group.bench_function(format!("rewrap, bearer token, {attributes} attributes"), |b| {
            b.iter(|| rig.rewrap(&srt, "Bearer", &token, None));
        });
    }
    let bound = rig.token(Some(&rig.signer.thumbprint()));
    let srt = rig.request(ATTRIBUTES);
    group.bench_function(format!("rewrap, bound token, {ATTRIBUTES} attributes"), |b| {
        b.iter_batched(
            || rig.signer.proof("POST", URL, &bound),
            |proof| rig.rewrap(&srt, "DPoP", &bound, Some(&proof)),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, access);
criterion_main!(benches);
