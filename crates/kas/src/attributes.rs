//! `policy.attributes.AttributesService`: what clients that encrypt with attributes need to know of
//! them, from local entitlements.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kasbah_access::{
    Attribute, AttributeValue, Entitlements, LocalDecisions, Rule, is_attribute_value_fqn,
};
use kasbah_auth::Caller;
use kasbah_proto::policy::{
    self, AttributeRuleTypeEnum, Namespace, SimpleKasKey, Value,
    attributes::{
        GetAttributeValuesByFqnsRequest, GetAttributeValuesByFqnsResponse,
        GetKeyMappingsByFqnsRequest, GetKeyMappingsByFqnsResponse,
        attributes_service_server::{AttributesService, AttributesServiceServer},
        get_attribute_values_by_fqns_response::AttributeAndValue,
        get_key_mappings_by_fqns_response::AttributeKeyMapping,
    },
};
use kasbah_trust::{Deadline, Error, KeyService};
use tonic::{Request, Response, Status, async_trait};

use crate::{edge::missing_access_token, hand_out};

/// Most FQNs of one request.
const MAX_FQNS: usize = 250;
/// Largest request: as many FQNs of the greatest length.
const MAX_REQUEST: usize = 1024 * 1024;
/// Largest answer, in bytes: gRPC clients take 4 MiB.
const MAX_ANSWER: usize = 4_000_000;
/// What a message needs beside its texts, in bytes; more than it does.
const FRAME: usize = 64;
/// How long all keys of a request together may take to prove themselves, the first time.
const PROOFS_TIMEOUT: Duration = Duration::from_secs(10);

/// Attribute definitions and the keys that they are mapped to. Answers `GetAttributeValuesByFqns` and
/// `GetKeyMappingsByFqns`; every other call is `unimplemented`.
///
/// FQNs are read in any case and answered in lower case. One that is not known, not in use, or none at
/// all makes the whole request fail with `not_found`, and a value that is not in use with
/// `invalid_argument`, as `OpenTDF`'s platform does. A value that does not exist is answered without a
/// value where its definition allows traversal.
///
/// Keys are those of this KAS that are active and proven. If a value is mapped to keys, and none of
/// them can be given, the request fails: without a key a client would take another one.
#[derive(Debug)]
pub struct Attributes {
    local: Arc<LocalDecisions>,
    keys: Arc<KeyService>,
}

impl Attributes {
    /// The attributes that `local` decides with, at the time of each request, and the keys of `keys`.
    pub fn new(local: Arc<LocalDecisions>, keys: Arc<KeyService>) -> Self {
        Self { local, keys }
    }

    /// The service over gRPC.
    pub fn server(self) -> AttributesServiceServer<Self> {
        AttributesServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn given(&self) -> Given<'_> {
        let deadline = Deadline::after(PROOFS_TIMEOUT);
        Given { keys: &self.keys, deadline, known: HashMap::new() }
    }
}

#[async_trait]
impl AttributesService for Attributes {
    async fn get_attribute_values_by_fqns(
        &self,
        request: Request<GetAttributeValuesByFqnsRequest>,
    ) -> Result<Response<GetAttributeValuesByFqnsResponse>, Status> {
        let fqns = fqns_of(&request, &request.get_ref().fqns)?;
        let entitlements = self.local.entitlements();
        let (mut given, mut room) = (self.given(), MAX_ANSWER);
        let mut answer = GetAttributeValuesByFqnsResponse::default();
        for fqn in fqns {
            let found = find(&entitlements, &fqn)?;
            let keys = given.all_of(&fqn, found.keys()).await?;
            let of_definition = given.some_of(&found.attribute.keys).await.0;
            take(&mut room, size_of(&found, &fqn, &[&keys, &of_definition]))?;
            let entry = AttributeAndValue {
                attribute: Some(attribute(found.attribute, of_definition)),
                value: found.value.map(|known| value(known, keys)),
            };
            answer.fqn_attribute_values.insert(fqn, entry);
        }
        Ok(Response::new(answer))
    }

    async fn get_key_mappings_by_fqns(
        &self,
        request: Request<GetKeyMappingsByFqnsRequest>,
    ) -> Result<Response<GetKeyMappingsByFqnsResponse>, Status> {
        let fqns = fqns_of(&request, &request.get_ref().fqns)?;
        let entitlements = self.local.entitlements();
        let (mut given, mut room) = (self.given(), MAX_ANSWER);
        let mut answer = GetKeyMappingsByFqnsResponse::default();
        for fqn in fqns {
            let found = find(&entitlements, &fqn)?;
            let keys = given.all_of(&fqn, found.keys()).await?;
            take(&mut room, FRAME + fqn.len() + size_of_keys(&keys))?;
            let mapping = AttributeKeyMapping { rule: rule(found.attribute.rule) as i32, keys };
            answer.fqn_key_mappings.insert(fqn, mapping);
        }
        Ok(Response::new(answer))
    }
}

/// The FQNs of a request, in lower case, each once.
fn fqns_of<T>(request: &Request<T>, fqns: &[String]) -> Result<BTreeSet<String>, Status> {
    request.extensions().get::<Caller>().ok_or_else(missing_access_token)?;
    let problem = match fqns.len() {
        0 => "must contain at least 1 item(s) [repeated.min_items]",
        1..=MAX_FQNS => return Ok(fqns.iter().map(|fqn| fqn.to_ascii_lowercase()).collect()),
        _ => "must contain no more than 250 item(s) [repeated.max_items]",
    };
    Err(Status::invalid_argument(format!("validation error: fqns: {problem}")))
}

/// What an FQN stands for.
struct Found<'a> {
    attribute: &'a Attribute,
    /// `None` if it does not exist, and need not.
    value: Option<&'a AttributeValue>,
}

impl<'a> Found<'a> {
    /// Ids of the keys to encrypt with.
    fn keys(&self) -> &'a [String] {
        self.value.map_or(&self.attribute.keys, |value| &value.keys)
    }
}

fn find<'a>(entitlements: &'a Entitlements, fqn: &str) -> Result<Found<'a>, Status> {
    let unknown = || Status::not_found("resource not found");
    if !is_attribute_value_fqn(fqn) {
        return Err(unknown());
    }
    if let Some((attribute, value)) = entitlements.value(fqn) {
        return match (attribute.active, value.active) {
            (true, true) => Ok(Found { attribute, value: Some(value) }),
            (true, false) => Err(Status::invalid_argument("inactive attribute value")),
            (false, _) => Err(unknown()),
        };
    }
    let definition = fqn.rsplit_once("/value/").and_then(|(fqn, _)| entitlements.definition(fqn));
    let open = definition.filter(|definition| definition.active && definition.allow_traversal);
    Ok(Found { attribute: open.ok_or_else(unknown)?, value: None })
}

/// Keys that were looked for in one request.
struct Given<'a> {
    keys: &'a KeyService,
    deadline: Deadline,
    /// By kid.
    known: HashMap<String, Result<Option<SimpleKasKey>, NotNow>>,
}

/// A key that is not proven now.
#[derive(Debug, Clone, Copy)]
struct NotNow;

impl Given<'_> {
    /// Those of `kids` that clients may have: at least one, unless there are no kids.
    async fn all_of(&mut self, fqn: &str, kids: &[String]) -> Result<Vec<SimpleKasKey>, Status> {
        let (keys, not_now) = self.some_of(kids).await;
        if !keys.is_empty() || kids.is_empty() {
            return Ok(keys);
        }
        tracing::warn!(fqn, ?kids, not_now, "no key that the value is mapped to can be given");
        Err(if not_now {
            Status::unavailable("the keys of an attribute value cannot be had now; try again later")
        } else {
            let text = "an attribute value is mapped to keys of which none is there and in use";
            Status::failed_precondition(text)
        })
    }

    /// Those of `kids` that clients may have, and whether others may be had later.
    async fn some_of(&mut self, kids: &[String]) -> (Vec<SimpleKasKey>, bool) {
        let (mut keys, mut not_now) = (Vec::new(), false);
        for kid in kids {
            match self.key(kid).await {
                Ok(key) => keys.extend(key),
                Err(NotNow) => not_now = true,
            }
        }
        (keys, not_now)
    }

    async fn key(&mut self, kid: &str) -> Result<Option<SimpleKasKey>, NotNow> {
        if let Some(known) = self.known.get(kid) {
            return known.clone();
        }
        let key = hand_out::key_of_id(self.keys, &kid.into(), "", self.deadline).await;
        let key = key.map_err(|error: Error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(kid, error, "the key of an attribute is not proven now");
            NotNow
        });
        self.known.insert(kid.to_owned(), key.clone());
        key
    }
}

fn attribute(attribute: &Attribute, keys: Vec<SimpleKasKey>) -> policy::Attribute {
    let (namespace, name) = names_of(&attribute.fqn);
    let values = attribute.values.iter().filter(|value| value.active);
    policy::Attribute {
        namespace: Some(Namespace {
            name: namespace.to_owned(),
            fqn: format!("https://{namespace}"),
            active: Some(attribute.active),
            ..Namespace::default()
        }),
        name: name.to_owned(),
        rule: rule(attribute.rule) as i32,
        values: values.map(|known| value(known, Vec::new())).collect(),
        fqn: attribute.fqn.clone(),
        active: Some(attribute.active),
        kas_keys: keys,
        allow_traversal: Some(attribute.allow_traversal),
        ..policy::Attribute::default()
    }
}

fn value(value: &AttributeValue, keys: Vec<SimpleKasKey>) -> Value {
    Value {
        value: last_of(&value.fqn).to_owned(),
        fqn: value.fqn.clone(),
        active: Some(value.active),
        kas_keys: keys,
        ..Value::default()
    }
}

fn rule(rule: Rule) -> AttributeRuleTypeEnum {
    match rule {
        Rule::AllOf => AttributeRuleTypeEnum::AllOf,
        Rule::AnyOf => AttributeRuleTypeEnum::AnyOf,
        Rule::Hierarchy => AttributeRuleTypeEnum::Hierarchy,
    }
}

/// Namespace and name of `https://<namespace>/attr/<name>`.
fn names_of(definition: &str) -> (&str, &str) {
    let rest = definition.strip_prefix("https://").unwrap_or(definition);
    rest.split_once("/attr/").unwrap_or((rest, ""))
}

fn last_of(fqn: &str) -> &str {
    fqn.rsplit_once('/').map_or(fqn, |(_, last)| last)
}

/// At least as many bytes as an entry of the answer has.
fn size_of(found: &Found<'_>, fqn: &str, keys: &[&[SimpleKasKey]]) -> usize {
    // The name of a value is the end of its FQN.
    let values: usize =
        found.attribute.values.iter().map(|value| FRAME + 2 * value.fqn.len()).sum();
    let keys: usize = keys.iter().map(|keys| size_of_keys(keys)).sum();
    4 * (FRAME + fqn.len()) + values + keys
}

fn size_of_keys(keys: &[SimpleKasKey]) -> usize {
    let pem =
        |key: &SimpleKasKey| key.public_key.as_ref().map_or(0, |key| key.pem.len() + key.kid.len());
    keys.iter().map(|key| FRAME + key.kas_uri.len() + pem(key)).sum()
}

/// Keeps the whole answer within its bound: one definition may have many values, and a request may
/// name many of them.
fn take(room: &mut usize, size: usize) -> Result<(), Status> {
    *room = room.checked_sub(size).ok_or_else(|| {
        Status::resource_exhausted("the answer would be too large; ask for fewer values at once")
    })?;
    Ok(())
}
