//! Who may call what: a role policy in casbin form.
//!
//! Subjects of a caller are the entries of its groups claim, `user:<name>`, and `role:unknown`. A
//! group that is called like one of the other two is passed over, so neither a user's name nor a
//! group can become a role by being named like it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use casbin::{CoreApi, DefaultModel, Enforcer, MgmtApi, StringAdapter};
use serde_json::{Map, Value};

use crate::Refusal;

/// The built-in policy.
const BUILT_IN: &str = include_str!("roles.csv");

/// A request is allowed when a rule allows it and none denies it.
const MODEL: &str = r#"
[request_definition]
r = sub, res, act
[policy_definition]
p = sub, res, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub) && keyMatch(r.res, p.res) && (p.act == "*" || r.act == p.act)
"#;

/// What every caller is.
const EVERYONE: &str = "role:unknown";
/// May private key material, wrapped as it is, and settings of providers be shown?
const PRIVATE: (&str, &str) = ("kasbah.private", "read");
/// Answers that are remembered. There are fewer pairs of roles and methods than that.
const REMEMBERED: usize = 4096;

/// Which claims of a token say what, as paths with dots between members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// Name of the user.
    pub username: String,
    /// Groups: a list of texts, or one text.
    pub groups: String,
    /// The client that asked for the token.
    pub client_id: String,
}

impl Default for ClaimNames {
    /// As Keycloak has them.
    fn default() -> Self {
        Self {
            username: "preferred_username".to_owned(),
            groups: "realm_access.roles".to_owned(),
            client_id: "azp".to_owned(),
        }
    }
}

/// A role policy.
pub struct RolePolicy {
    enforcer: Enforcer,
    /// Subjects that a rule speaks of; others can be passed over.
    known: BTreeSet<String>,
    remembered: RwLock<HashMap<Asked, bool>>,
}

/// Subjects, and what they want to call.
type Asked = (Arc<BTreeSet<String>>, String);

/// A role policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A line that is no rule.
    #[error("line {line}: {problem}")]
    Line {
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// The library refuses it.
    #[error("the role policy cannot be loaded: {0}")]
    Library(String),
}

impl RolePolicy {
    /// Checks that every line of `csv` is a rule.
    ///
    /// # Errors
    /// When one is none.
    pub fn check(csv: &str) -> Result<(), PolicyError> {
        for (index, line) in csv.lines().enumerate() {
            check_line(line).map_err(|problem| PolicyError::Line { line: index + 1, problem })?;
        }
        Ok(())
    }

    /// The built-in policy, with `more` rules behind it.
    ///
    /// # Errors
    /// When a rule is none.
    pub async fn built_in(more: &str) -> Result<Self, PolicyError> {
        Self::check(more)?;
        Self::load(format!("{BUILT_IN}\n{more}")).await
    }

    /// The policy of `csv` alone.
    ///
    /// # Errors
    /// When a rule is none.
    pub async fn replaced(csv: &str) -> Result<Self, PolicyError> {
        Self::check(csv)?;
        Self::load(csv.to_owned()).await
    }

    async fn load(csv: String) -> Result<Self, PolicyError> {
        let library = |error: casbin::Error| PolicyError::Library(error.to_string());
        let model = DefaultModel::from_str(MODEL).await.map_err(library)?;
        let rules = csv.lines().map(normalised).collect::<Vec<_>>().join("\n");
        let enforcer = Enforcer::new(model, StringAdapter::new(rules)).await.map_err(library)?;
        let rules = enforcer.get_policy().into_iter().chain(enforcer.get_grouping_policy());
        let known = rules.filter_map(|rule| rule.into_iter().next()).collect();
        Ok(Self { enforcer, known, remembered: RwLock::default() })
    }

    /// The subjects of a caller of whom nothing else counts.
    pub(crate) fn everyone() -> Arc<BTreeSet<String>> {
        Arc::new(BTreeSet::from([EVERYONE.to_owned()]))
    }

    /// The subjects of a token that some rule speaks of.
    pub(crate) fn subjects(
        &self,
        claims: &Map<String, Value>,
        names: &ClaimNames,
    ) -> Arc<BTreeSet<String>> {
        let groups = match claim(claims, &names.groups) {
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(group)) => vec![group.as_str()],
            _ => Vec::new(),
        };
        let groups = groups.into_iter().filter(|group| !is_reserved(group)).map(str::to_owned);
        let user = claim(claims, &names.username).and_then(Value::as_str);
        let user = user.map(|name| format!("user:{name}"));
        let all = groups.chain(user).filter(|subject| self.known.contains(subject));
        Arc::new(all.chain([EVERYONE.to_owned()]).collect())
    }

    /// Whether one of `subjects` may call the method at `path`, for example
    /// `/kas.AccessService/Rewrap`.
    ///
    /// # Errors
    /// `Forbidden` when not.
    pub(crate) fn authorize(
        &self,
        subjects: &Arc<BTreeSet<String>>,
        path: &str,
    ) -> Result<(), Refusal> {
        match method(path) {
            Some((resource, action)) if self.allows(subjects, resource, action) => Ok(()),
            _ => Err(Refusal::forbidden("no role of the caller allows the call")),
        }
    }

    /// Whether one of `subjects` may see private key material.
    pub(crate) fn sees_private(&self, subjects: &Arc<BTreeSet<String>>) -> bool {
        self.allows(subjects, PRIVATE.0, PRIVATE.1)
    }

    fn allows(&self, subjects: &Arc<BTreeSet<String>>, resource: &str, action: &str) -> bool {
        let key = (Arc::clone(subjects), resource.to_owned());
        let remembered = self.remembered.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = remembered.get(&key) {
            return *answer;
        }
        drop(remembered);
        let allowed = subjects.iter().any(|subject| {
            self.enforcer.enforce((subject.as_str(), resource, action)).unwrap_or(false)
        });
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        // What is denied could be any text, made up to fill this.
        if remembered.len() < REMEMBERED && (allowed || resource == PRIVATE.0) {
            remembered.insert(key, allowed);
        }
        allowed
    }
}

impl fmt::Debug for RolePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RolePolicy").field("known", &self.known).finish_non_exhaustive()
    }
}

/// A claim by its path.
pub(crate) fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    // A name that has dots in it, as names of other issuers' claims have.
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    claim(claims.get(first)?.as_object()?, rest)
}

fn is_reserved(group: &str) -> bool {
    group.starts_with("role:") || group.starts_with("user:")
}

/// `service/method` of a path, and the action that the method's name stands for.
fn method(path: &str) -> Option<(&str, &'static str)> {
    let resource = path.strip_prefix('/')?;
    let (service, method) = resource.split_once('/')?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !service.chars().all(|c| is_word(c) || c == '.') || !method.chars().all(is_word) {
        return None;
    }
    Some((resource, action(method)))
}

fn action(method: &str) -> &'static str {
    let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| method.starts_with(prefix));
    if is(&["List", "Get"]) {
        "read"
    } else if is(&["Create", "Update", "Assign"]) {
        "write"
    } else if is(&["Delete", "Remove", "Deactivate"]) {
        "delete"
    } else if is(&["Unsafe"]) {
        "unsafe"
    } else {
        "other"
    }
}

/// Policies of other versions write resources with a slash in front.
fn normalised(line: &str) -> String {
    let fields: Vec<_> = line.split(',').map(str::trim).collect();
    match fields.as_slice() {
        ["p", subject, resource, rest @ ..] => {
            let resource = resource.strip_prefix('/').unwrap_or(resource);
            format!("p, {subject}, {resource}, {}", rest.join(", "))
        }
        _ => line.trim().to_owned(),
    }
}

/// The library passes over what it does not understand.
fn check_line(line: &str) -> Result<(), String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let fields: Vec<_> = line.split(',').map(str::trim).collect();
    if fields.iter().any(|field| field.is_empty() || field.contains('"')) {
        return Err(
            "a field is empty or in quotes; write `p, role:x, service/*, read, allow`".into()
        );
    }
    match fields.as_slice() {
        ["p", _, _, _, "allow" | "deny"] | [] => Ok(()),
        ["p", _, _, _] => Err("the rule has no effect; add `, allow` or `, deny`".into()),
        ["p", _, _, _, other] => Err(format!("`{other}` is no effect; use `allow` or `deny`")),
        ["p", ..] => Err("a rule is `p, subject, service/method, action, effect`".into()),
        ["g", subject, role] if !role.starts_with("role:") && !subject.starts_with("role:") => {
            Err(format!("`{role}` is no role; names of roles begin with `role:`"))
        }
        ["g", _, _] => Ok(()),
        ["g", ..] => Err("a group has a role by `g, group, role:name`".into()),
        [other, ..] => Err(format!("`{other}` begins no rule; rules begin with `p` or `g`")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REWRAP: &str = "/kas.AccessService/Rewrap";
    const GET_KEY: &str = "/policy.kasregistry.KeyAccessServerRegistryService/GetKey";
    const CREATE_KEY: &str = "/policy.kasregistry.KeyAccessServerRegistryService/CreateKey";
    const BASE_KEY: &str = "/policy.kasregistry.KeyAccessServerRegistryService/GetBaseKey";
    const GENERATE: &str = "/kasbah.admin.v1.AdminService/GenerateKey";
    const UNSAFE: &str = "/policy.unsafe.UnsafeService/UnsafeDeleteKasKey";

    fn claims(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(claims) => claims,
            other => panic!("no object: {other}"),
        }
    }

    fn may(policy: &RolePolicy, claims: &Map<String, Value>, path: &str) -> bool {
        let subjects = policy.subjects(claims, &ClaimNames::default());
        let first = policy.authorize(&subjects, path).is_ok();
        assert_eq!(policy.authorize(&subjects, path).is_ok(), first, "remembered otherwise");
        first
    }

    fn in_groups(groups: &[&str]) -> Map<String, Value> {
        claims(json!({ "preferred_username": "alice", "realm_access": { "roles": groups } }))
    }

    #[tokio::test]
    async fn the_built_in_policy_keeps_the_control_plane_to_administrators() {
        let policy = RolePolicy::built_in("").await.unwrap();
        let (admin, standard, other) =
            (in_groups(&["x", "opentdf-admin"]), in_groups(&["opentdf-standard"]), in_groups(&[]));
        for (path, allowed) in [
            (REWRAP, [true, true, true]),
            (BASE_KEY, [true, true, true]),
            (GET_KEY, [true, true, false]),
            (CREATE_KEY, [true, false, false]),
            (GENERATE, [true, false, false]),
            (UNSAFE, [true, false, false]),
            ("/policy.keymanagement.KeyManagementService/GetProviderConfig", [true, true, false]),
            ("/policy.attributes.AttributesService/GetAttributeValuesByFqns", [true, true, true]),
            ("/kas.AccessService/Rewrap/", [false, false, false]),
            ("/kas.AccessService", [false, false, false]),
            ("kas.AccessService/Rewrap", [false, false, false]),
            ("/kas.AccessService/Rewräp", [false, false, false]),
            ("", [false, false, false]),
        ] {
            let found = [&admin, &standard, &other].map(|claims| may(&policy, claims, path));
            assert_eq!(found, allowed, "{path}");
        }
        let sees = |claims| policy.sees_private(&policy.subjects(claims, &ClaimNames::default()));
        assert_eq!([sees(&admin), sees(&standard), sees(&other)], [true, false, false]);
    }

    #[tokio::test]
    async fn neither_a_user_nor_a_group_becomes_a_role_by_its_name() {
        let policy = RolePolicy::built_in("").await.unwrap();
        for name in ["role:admin", "opentdf-admin", "admin", "user:x", "role:unknown, role:admin"] {
            let user = claims(json!({ "preferred_username": name, "sub": name, "azp": name }));
            assert!(!may(&policy, &user, CREATE_KEY), "{name}");
            assert!(!may(&policy, &user, GET_KEY), "{name}");
        }
        for group in ["role:admin", "role:standard", "user:alice"] {
            assert!(!may(&policy, &in_groups(&[group]), GET_KEY), "{group}");
        }
        for groups in [
            json!("role:admin"),
            json!(7),
            json!({ "opentdf-admin": true }),
            json!([["opentdf-admin"]]),
        ] {
            let claims = claims(json!({ "realm_access": { "roles": groups } }));
            assert!(!may(&policy, &claims, CREATE_KEY), "{claims:?}");
        }
    }

    #[tokio::test]
    async fn operators_bring_rules_of_their_own() {
        let more = "p, role:keys, policy.kasregistry.*, write, allow\ng, key-team, role:keys\n\
                    g, user:alice, role:keys\n p, role:keys, /kas.AccessService/Rewrap, other, deny\n";
        let policy = RolePolicy::built_in(more).await.unwrap();
        assert!(may(&policy, &in_groups(&["key-team"]), CREATE_KEY));
        assert!(may(&policy, &in_groups(&[]), CREATE_KEY), "alice by name");
        let bob = claims(json!({ "preferred_username": "bob" }));
        assert!(!may(&policy, &bob, CREATE_KEY));
        let group = claims(json!({ "realm_access": { "roles": ["user:alice"] } }));
        assert!(!may(&policy, &group, CREATE_KEY));

        let policy = RolePolicy::replaced("p, role:unknown, *, read, allow").await.unwrap();
        assert!(may(&policy, &bob, GET_KEY));
        assert!(!may(&policy, &bob, REWRAP));
    }

    #[tokio::test]
    async fn a_line_that_is_no_rule_is_an_error_with_its_number() {
        for (csv, expected) in [
            ("p, role:x, kas.*, read", "line 1: the rule has no effect"),
            ("\n# fine\np, role:x, kas.*, read, maybe", "line 3: `maybe` is no effect"),
            ("p, role:x", "line 1: a rule is"),
            ("p, role:x, , read, allow", "line 1: a field is empty"),
            ("g, team", "line 1: a group has a role"),
            ("g, team, admin", "line 1: `admin` is no role"),
            ("q, a, b", "line 1: `q` begins no rule"),
        ] {
            let error = RolePolicy::built_in(csv).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{csv}: {error}");
        }
    }

    #[test]
    fn claims_are_found_by_path_and_by_name() {
        let claims = claims(json!({ "a": { "b": { "c": 1 } }, "x.y": 2, "x": { "y": 3 } }));
        assert_eq!(claim(&claims, "a.b.c"), Some(&json!(1)));
        assert_eq!(claim(&claims, "x.y"), Some(&json!(2)));
        assert_eq!(claim(&claims, "a.b.d"), None);
        assert_eq!(claim(&claims, "a.b.c.d"), None);
    }
}
