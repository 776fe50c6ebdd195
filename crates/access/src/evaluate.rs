//! Decisions, as OpenTDF's `authorization.v2` makes them.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::{
    flatten::Seen,
    local::LocalOptions,
    model::{Condition, Entitlements, Group, Mapping, Operator, Place, Rule},
    number, obligations,
    question::Decision,
    record::{Category, Entity, Record},
};

/// May all subjects among `entities` do `action` to each of `resources`?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who takes part.
    pub entities: &'a [Entity<'a>],
    /// Name of the action, in any case.
    pub action: &'a str,
    /// The client through which they act; empty when it is not known.
    pub client_id: &'a str,
    /// Attribute value FQNs of each resource, in any case.
    pub resources: &'a [Vec<String>],
    /// Obligation value FQNs that the client says it can fulfil, in any case.
    pub fulfillable: &'a [String],
}

impl Entitlements {
    /// One decision for each resource, in order.
    ///
    /// A resource is denied, whatever becomes of the others, when it has no FQNs, when one of them
    /// is unknown or malformed, or when there is no subject.
    pub fn decide(&self, request: &Request<'_>, options: LocalOptions) -> Vec<Decision> {
        let action = request.action.to_ascii_lowercase();
        let fulfillable: HashSet<String> =
            request.fulfillable.iter().map(|fqn| fqn.to_ascii_lowercase()).collect();
        let subjects =
            request.entities.iter().filter(|entity| entity.category == Category::Subject);
        let mut subjects: Vec<_> =
            subjects.map(|entity| Subject::new(self, options, &action, &entity.records)).collect();
        let decide = |fqns: &Vec<String>| {
            let fqns: Vec<_> = fqns.iter().map(|fqn| fqn.to_ascii_lowercase()).collect();
            let Some(places) = self.places(&fqns) else { return Decision::deny() };
            let entitled =
                !subjects.is_empty() && subjects.iter_mut().all(|subject| subject.may(&places));
            if !entitled {
                return Decision::deny();
            }
            let required = obligations::required(self, &fqns, &action, request.client_id);
            let permit = required.iter().all(|fqn| fulfillable.contains(*fqn));
            let obligations = required.into_iter().map(str::to_owned).collect();
            Decision { permit, obligations }
        };
        request.resources.iter().map(decide).collect()
    }

    /// Where the values of a resource are, sorted. `None` if it has none or one of them is unknown
    /// or not in use.
    fn places(&self, fqns: &[String]) -> Option<Vec<Place>> {
        let mut places: Vec<_> =
            fqns.iter().map(|fqn| self.place_in_use(fqn)).collect::<Option<_>>()?;
        places.sort_unstable();
        (!places.is_empty()).then_some(places)
    }

    fn place_in_use(&self, fqn: &str) -> Option<Place> {
        let place = *self.places.get(fqn)?;
        let attribute = self.attributes.get(place.attribute)?;
        (attribute.active && attribute.values.get(place.value)?.active).then_some(place)
    }
}

/// An entity that must be entitled on its own, and what is known of its entitlements.
struct Subject<'a> {
    policy: &'a Entitlements,
    options: LocalOptions,
    action: &'a str,
    records: &'a [Record<'a>],
    /// What selectors find in those of `records` in which they can look.
    seen: Option<Vec<Seen<'a>>>,
    known: HashMap<Place, bool>,
}

impl<'a> Subject<'a> {
    fn new(
        policy: &'a Entitlements,
        options: LocalOptions,
        action: &'a str,
        records: &'a [Record<'a>],
    ) -> Self {
        Self { policy, options, action, records, seen: None, known: HashMap::new() }
    }

    /// Every attribute of a resource must let it pass.
    fn may(&mut self, places: &[Place]) -> bool {
        places.chunk_by(|one, other| one.attribute == other.attribute).all(|of| self.passes(of))
    }

    /// `places`: values of one attribute, sorted, at least one.
    fn passes(&mut self, places: &[Place]) -> bool {
        let Some(highest) = places.first() else { return false };
        let Some(attribute) = self.policy.attributes.get(highest.attribute) else { return false };
        match attribute.rule {
            Rule::AllOf => places.iter().all(|place| self.is_entitled(*place)),
            Rule::AnyOf => places.iter().any(|place| self.is_entitled(*place)),
            Rule::Hierarchy => {
                (0..=highest.value).any(|value| self.is_entitled(Place { value, ..*highest }))
            }
        }
    }

    fn is_entitled(&mut self, place: Place) -> bool {
        if let Some(known) = self.known.get(&place) {
            return *known;
        }
        let entitled = self.find_out(place);
        self.known.insert(place, entitled);
        entitled
    }

    fn find_out(&mut self, place: Place) -> bool {
        let attribute = self.policy.attributes.get(place.attribute);
        let Some(value) = attribute.and_then(|attribute| attribute.values.get(place.value)) else {
            return false;
        };
        let action = self.action;
        let concerns = |mapping: &&Mapping| mapping.actions.iter().any(|name| name == action);
        let mut mappings = value.mappings.iter().filter(concerns).peekable();
        if !value.active || mappings.peek().is_none() {
            return false;
        }
        let options = self.options;
        let seen = self.seen();
        mappings.any(|mapping| seen.iter().any(|seen| holds(mapping, seen, options)))
    }

    fn seen(&mut self) -> &[Seen<'a>] {
        let (records, policy, options) = (self.records, self.policy, self.options);
        self.seen.get_or_insert_with(|| {
            let look = |record| Seen::look(record, &policy.selectors, options.nested_only);
            records.iter().filter_map(look).collect()
        })
    }
}

fn holds(mapping: &Mapping, seen: &Seen<'_>, options: LocalOptions) -> bool {
    mapping.sets.iter().flatten().all(|group| joined(group, seen, options))
}

fn joined(group: &Group, seen: &Seen<'_>, options: LocalOptions) -> bool {
    let mut conditions = group.conditions.iter();
    let holds =
        |condition: &Condition| is_true(condition, seen.values(condition.selector), options);
    if group.all { conditions.all(holds) } else { conditions.any(holds) }
}

fn is_true(condition: &Condition, claims: &[&Value], options: LocalOptions) -> bool {
    let listed = |claim: &&Value| is_listed(condition, claim, options);
    match condition.operator {
        Operator::In => claims.iter().any(listed),
        Operator::NotIn if options.strict_guards && claims.is_empty() => false,
        Operator::NotIn => !claims.iter().any(listed),
        Operator::InContains => claims.iter().any(|claim| contains(condition, claim)),
    }
}

/// Only strings are in lists, unless guards are strict.
fn is_listed(condition: &Condition, claim: &Value, options: LocalOptions) -> bool {
    let in_list =
        |text: &str| condition.values.binary_search_by(|value| value.as_str().cmp(text)).is_ok();
    match claim {
        Value::String(text) => in_list(text),
        Value::Number(number) if options.strict_guards => in_list(&number::json_text(number)),
        Value::Bool(truth) if options.strict_guards => in_list(&truth.to_string()),
        _ => false,
    }
}

fn contains(condition: &Condition, claim: &Value) -> bool {
    let any_in = |text: &str| condition.values.iter().any(|value| text.contains(value.as_str()));
    match claim {
        Value::String(text) => any_in(text),
        Value::Number(number) => any_in(&number::go_text(number)),
        Value::Bool(truth) => any_in(&truth.to_string()),
        _ => false,
    }
}
