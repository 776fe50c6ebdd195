use std::collections::HashMap;

use iri_string::types::UriStr;
use kasbah_access::{Decision, Question};
use kasbah_proto::{
    authorization::v2::{
        self as wire, EntityIdentifier, GetDecisionMultiResourceRequest, GetDecisionRequest,
        Resource, ResourceDecision, entity_identifier, resource,
    },
    entity::Token,
    policy::Action,
};
use prost::Message;
use secrecy::ExposeSecret;

use crate::DecisionSettings;

/// A question as the platform is asked it. Holds the caller's token.
pub(crate) struct Asked {
    /// `None` when nothing is left to ask.
    pub(crate) call: Option<Call>,
    /// How many resources the question has.
    resources: usize,
    /// Where in the question a resource stands that is asked about, by its id.
    places: HashMap<String, usize>,
}

/// One round trip.
pub(crate) enum Call {
    One(GetDecisionRequest),
    Many(GetDecisionMultiResourceRequest),
}

impl Call {
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::One(_) => "GetDecision",
            Self::Many(_) => "GetDecisionMultiResource",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::One(request) => request.encoded_len(),
            Self::Many(request) => request.encoded_len(),
        }
    }
}

impl Asked {
    /// Leaves out what the platform would refuse the others for.
    ///
    /// # Errors
    /// Which limit the question is beyond.
    pub(crate) fn new(
        question: &Question<'_>,
        settings: &DecisionSettings,
    ) -> Result<Self, String> {
        within("fulfillable obligations", question.fulfillable.len(), settings.fulfillable)?;
        let is_sound = |fqns: &[String]| {
            (1..=settings.fqns_per_resource).contains(&fqns.len())
                && fqns.iter().all(|fqn| is_fqn(fqn))
        };
        let sound = || question.resources.iter().enumerate().filter(|(_, fqns)| is_sound(fqns));
        let places: HashMap<_, _> = sound().map(|(place, _)| (id(place), place)).collect();
        within("resources", places.len(), settings.resources)?;
        let resources = sound().map(|(place, fqns)| resource(place, fqns)).collect();
        let call = call(question, resources);
        within("bytes", call.as_ref().map_or(0, Call::bytes), REQUEST_BYTES)?;
        Ok(Self { call, resources: question.resources.len(), places })
    }

    /// The decisions in the order of the question, what was left out denied.
    ///
    /// # Errors
    /// Why the answer cannot be right. Repeats nothing of it.
    pub(crate) fn read(
        mut self,
        answer: Vec<ResourceDecision>,
    ) -> Result<Vec<Decision>, &'static str> {
        let mut decisions = vec![Decision::deny(); self.resources];
        for decided in answer {
            let place = self.places.remove(&decided.ephemeral_resource_id);
            let place = place.ok_or("it decides on something that was not asked, or twice")?;
            let slot = decisions.get_mut(place).ok_or("it decides on too much")?;
            *slot = decision(decided)?;
        }
        if self.places.is_empty() { Ok(decisions) } else { Err("it leaves out a resource") }
    }
}

fn within(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count <= most {
        return Ok(());
    }
    Err(format!("the question has {count} {what}, and the platform takes {most}"))
}

/// What the platform accepts as a URI and may be an FQN. No host of an FQN has escapes.
fn is_fqn(text: &str) -> bool {
    let uri = UriStr::new(text).ok().filter(|_| text.len() <= FQN_BYTES);
    uri.is_some_and(|uri| !uri.authority_str().is_some_and(|host| host.contains('%')))
}

fn id(place: usize) -> String {
    format!("rewrap-{place}")
}

fn resource(place: usize, fqns: &[String]) -> Resource {
    let values = resource::AttributeValues { fqns: fqns.to_vec() };
    let resource = Some(resource::Resource::AttributeValues(values));
    Resource { ephemeral_id: id(place), resource }
}

fn call(question: &Question<'_>, mut resources: Vec<Resource>) -> Option<Call> {
    let last = resources.pop()?;
    let token = Token {
        ephemeral_id: "rewrap-token".to_owned(),
        jwt: question.subject.token.expose_secret().to_owned(),
    };
    let identifier = Some(entity_identifier::Identifier::Token(token));
    let entity_identifier = Some(EntityIdentifier { identifier });
    let action = Some(Action { name: "read".to_owned(), ..Action::default() });
    let fulfillable_obligation_fqns = question.fulfillable.to_vec();
    if resources.is_empty() {
        let resource = Some(last);
        return Some(Call::One(GetDecisionRequest {
            entity_identifier,
            action,
            resource,
            fulfillable_obligation_fqns,
        }));
    }
    resources.push(last);
    Some(Call::Many(GetDecisionMultiResourceRequest {
        entity_identifier,
        action,
        resources,
        fulfillable_obligation_fqns,
    }))
}

fn decision(decided: ResourceDecision) -> Result<Decision, &'static str> {
    let permit = match wire::Decision::try_from(decided.decision) {
        Ok(wire::Decision::Permit) => true,
        Ok(wire::Decision::Deny | wire::Decision::Unspecified) => false,
        Err(_) => return Err("it decides neither permit nor deny"),
    };
    let obligations = decided.required_obligations;
    if obligations.len() > OBLIGATIONS || obligations.iter().any(|fqn| fqn.len() > FQN_BYTES) {
        return Err("its obligations are too many or too long");
    }
    Ok(Decision { permit, obligations })
}

/// What the platform's server reads.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The longest FQN has a host of 253 and two names of 253.
const FQN_BYTES: usize = 2 * 1024;

/// Of one resource.
const OBLIGATIONS: usize = 1000;
