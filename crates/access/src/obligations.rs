//! What reading a resource obliges to.

use crate::model::{Entitlements, Trigger};

/// The obligations that `action` brings with it on a resource, each once, in the order of its FQNs
/// and then of the policy. They depend neither on rules nor on what entitles.
///
/// A trigger for certain clients fires for those, and for a client without a name: it may be any
/// of them.
pub(crate) fn required<'p>(
    policy: &'p Entitlements,
    fqns: &[String],
    action: &str,
    client_id: &str,
) -> Vec<&'p str> {
    let mut required = Vec::new();
    for trigger in fqns.iter().filter_map(|fqn| policy.triggers.get(fqn)).flatten() {
        let obligation = trigger.obligation.as_str();
        if fires(trigger, action, client_id) && !required.contains(&obligation) {
            required.push(obligation);
        }
    }
    required
}

fn fires(trigger: &Trigger, action: &str, client_id: &str) -> bool {
    let concerns = |clients: &Vec<String>| {
        client_id.is_empty() || clients.iter().any(|client| client == client_id)
    };
    trigger.action == action && trigger.clients.as_ref().is_none_or(concerns)
}
