//! What is kept, and what drops it, from what a description says. Pure.

use std::collections::BTreeSet;

use http::Method;

use super::Access;
use super::schema::{Api, ApiPath, Asks, Converter, Operation, Parameters, Segment};
use super::segments::{
    begins, captures, is_beneath_another, meet, names_in, parsed, sayable, takes, trimmed,
};
use crate::route::{KeyTemplate, PathPattern};

#[derive(Debug, Default)]
pub struct Plan {
    pub routes: Vec<RoutePlan>,
    pub rules: Vec<RulePlan>,
    /// Reads that are not kept, each with why.
    pub left_out: Vec<(String, String)>,
    /// Writes that drop nothing.
    pub idle: Vec<String>,
    /// A path by which the API may say who is admitted.
    pub verify: Option<String>,
}

#[derive(Debug)]
pub struct RoutePlan {
    segments: Vec<Segment>,
    pub path: PathPattern,
    pub key: String,
    pub access: Access,
    pub asks: Asks,
    pub is_list: bool,
    /// What it shows, by the description's names.
    pub shows: Vec<String>,
    /// Paths that it takes, too, such as `/users/me/` beside `/users/<name>/`.
    pub also: Vec<String>,
    /// The parameters that count; `None`: all.
    pub query: Option<Vec<String>>,
    pub vary: Vec<String>,
}

#[derive(Debug)]
pub struct RulePlan {
    segments: Vec<Segment>,
    pub methods: Vec<Method>,
    pub path: PathPattern,
    pub keys: Vec<String>,
    pub why: String,
}

/// A list, the things in it, or both.
struct Resource<'a> {
    name: String,
    /// The list's path, also where only its things can be read.
    base: Vec<Segment>,
    list: Option<&'a ApiPath>,
    detail: Option<&'a ApiPath>,
    /// The components that it is made of.
    is: BTreeSet<String>,
    /// All that its answers hold.
    holds: BTreeSet<String>,
    /// Whether the detail's path also takes paths that are something else, like `/users/me/` beside `/users/<name>/`, which
    /// need not be described.
    crowded: bool,
    /// Whether some of that is read: it is kept as if it were one of them.
    mixed: bool,
}

pub fn plan(api: &Api, access: Option<&Access>) -> Plan {
    let mut plan = Plan {
        verify: verify_path(api),
        ..Plan::default()
    };
    let resources = resources(api, &mut plan);
    for resource in &resources {
        for (path, is_list) in [(resource.list, true), (resource.detail, false)] {
            let route = path.and_then(|path| route(api, resource, path, is_list, access));
            if let Some(route) = route {
                add_route(&mut plan, route);
            }
        }
    }
    for resource in &resources {
        for rule in own_rules(resource, &resources) {
            add_rule(&mut plan, rule);
        }
    }
    for path in &api.paths {
        if !api.paths.iter().any(|bare| is_with_a_format(path, bare)) {
            elsewhere(path, &resources, &mut plan);
        }
    }
    drop_what_is_met(&mut plan);
    plan.routes = ordered(plan.routes, |one, other| one.path.covers(&other.path));
    heed_what_is_taken(api, &mut plan, access.is_some());
    plan.rules = ordered(plan.rules, |one, other| {
        one.path.covers(&other.path) && one.meets(other)
    });
    plan
}

fn resources<'a>(api: &'a Api, plan: &mut Plan) -> Vec<Resource<'a>> {
    let mut resources: Vec<Resource> = Vec::new();
    for path in &api.paths {
        let Some(read) = &path.read else { continue };
        let mut leave_out = |why: &str| {
            plan.left_out.push((path.text.clone(), why.to_owned()));
        };
        if let Some(odd) = &path.odd {
            leave_out(odd);
            continue;
        }
        if parsed(&path.segments).is_none() {
            leave_out("its path cannot be said in this file");
            continue;
        }
        let own = trimmed(&path.segments);
        let (base, is_list) = match own {
            [] => {
                leave_out("it is no list");
                continue;
            }
            [base @ .., Segment::Capture { .. }] => (base, false),
            _ => (own, true),
        };
        if !base.iter().any(|part| matches!(part, Segment::Literal(_))) {
            leave_out("nothing but a capture: any path would be one of it");
            continue;
        }
        if is_list && !(read.is_list || has_things(api, path)) {
            leave_out(
                "neither a list nor one thing of a list: which writes change it is not to be seen",
            );
            continue;
        }
        let found = resources
            .iter()
            .position(|known| known.base.len() == base.len() && begins(&known.base, base));
        let at = found.unwrap_or_else(|| {
            resources.push(Resource {
                name: String::new(),
                base: base.to_vec(),
                list: None,
                detail: None,
                is: BTreeSet::new(),
                holds: BTreeSet::new(),
                crowded: false,
                mixed: false,
            });
            resources.len() - 1
        });
        let resource = &mut resources[at];
        let place = match is_list {
            true => &mut resource.list,
            false => &mut resource.detail,
        };
        if let Some(taken) = place {
            leave_out(&format!("it is {} in another spelling", taken.text));
            continue;
        }
        *place = Some(path);
        if !is_list {
            let last = own.last();
            resource.crowded =
                matches!(last, Some(Segment::Capture { converter, .. }) if takes(*converter, "me"));
            for beside in crowding(api, path) {
                resource.crowded = true;
                if let Some(read) = &beside.read {
                    resource.mixed = true;
                    resource.holds.extend(read.holds.iter().cloned());
                }
            }
        }
        resource.is.extend(read.shows.iter().cloned());
        for (_, write) in &path.writes {
            resource.is.extend(write.shows.iter().cloned());
        }
        resource.holds.extend(read.holds.iter().cloned());
    }
    name(&mut resources);
    resources
}

/// Whether one thing of it can be read or written beneath.
fn has_things(api: &Api, list: &ApiPath) -> bool {
    let own = trimmed(&list.segments);
    api.paths.iter().any(|path| {
        matches!(trimmed(&path.segments), [base @ .., Segment::Capture { .. }]
            if base.len() == own.len() && begins(base, own))
    })
}

/// What the path of single ones takes and is none of them.
fn crowding<'a>(api: &'a Api, detail: &ApiPath) -> impl Iterator<Item = &'a ApiPath> {
    let own = trimmed(&detail.segments).to_vec();
    api.paths.iter().filter(move |path| {
        let [base @ .., Segment::Capture { converter, .. }] = own.as_slice() else {
            return false;
        };
        matches!(trimmed(&path.segments), [others @ .., Segment::Literal(last)]
            if others.len() == base.len() && begins(base, others) && takes(*converter, last))
    })
}

/// Names each by the words of its path, without what all have in common.
fn name(resources: &mut [Resource]) {
    let mut taken: Vec<(KeyTemplate, PathPattern)> = Vec::new();
    for resource in resources {
        let mut words: Vec<&str> = { resource.base.iter() }
            .filter_map(|segment| match segment {
                Segment::Literal(text) => Some(text.as_str()),
                Segment::Capture { .. } => None,
            })
            .collect();
        while let [first, _, ..] = words.as_slice()
            && is_everywhere(first)
        {
            words.remove(0);
        }
        let plain = |c: char| match c.is_ascii_alphanumeric() || "-_.".contains(c) {
            true => c,
            false => '-',
        };
        let word = words.join(":");
        let word: String = word
            .split(':')
            .map(|word| word.chars().map(plain).collect::<String>())
            .collect::<Vec<_>>()
            .join(":");
        resource.name.clone_from(&word);
        // `users:list` may also be the thing `list` of another.
        for n in 2.. {
            let own: Vec<(KeyTemplate, PathPattern)> = keys_of(resource);
            let meets = own.iter().any(|(key, path)| {
                let mut taken = taken.iter();
                taken.any(|(other, others)| {
                    begin_alike(key, other)
                        && (key.collides(path, other, others) || key.pattern() == other.pattern())
                })
            });
            if !meets {
                taken.extend(own);
                break;
            }
            resource.name = format!("{word}-{n}");
        }
    }
}

/// Else they never meet, and this costs nothing to see.
fn begin_alike(one: &KeyTemplate, other: &KeyTemplate) -> bool {
    let begin = |key: &KeyTemplate| key.as_str().find('{').unwrap_or(key.as_str().len());
    let both = begin(one).min(begin(other));
    one.as_str().as_bytes()[..both] == other.as_str().as_bytes()[..both]
}

fn is_everywhere(word: &str) -> bool {
    let version = word.strip_prefix('v').is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    });
    version || ["api", "rest"].contains(&word)
}

fn keys_of(resource: &Resource) -> Vec<(KeyTemplate, PathPattern)> {
    let both = [(resource.list, true), (resource.detail, false)];
    both.into_iter()
        .filter_map(|(path, is_list)| {
            let path = path?;
            let key = KeyTemplate::parse(&key(resource, path, is_list)).ok()?;
            Some((key, parsed(&path.segments)?))
        })
        .collect()
}

/// `users:list`, `users:detail:{id}`
fn key(resource: &Resource, path: &ApiPath, is_list: bool) -> String {
    let names = captures(&path.segments).map(|name| format!(":{{{name}}}"));
    stem(resource, is_list) + &names.collect::<String>()
}

fn stem(resource: &Resource, is_list: bool) -> String {
    let kind = if is_list { "list" } else { "detail" };
    format!("{}:{kind}", resource.name)
}

fn route(
    api: &Api,
    resource: &Resource,
    path: &ApiPath,
    is_list: bool,
    access: Option<&Access>,
) -> Option<RoutePlan> {
    let nothing = Operation::default();
    let read = path.read.as_ref().unwrap_or(&nothing);
    let by_schema = match read.asks {
        Asks::Nothing => Access::Public,
        Asks::Unsaid | Asks::Optional | Asks::Credential => Access::PerCredential,
    };
    let query = match &read.query {
        Parameters::Unlisted => None,
        Parameters::Listed(names) => {
            let mut names = names.clone();
            names.extend(api.key_parameters.iter().cloned());
            Some(names)
        }
    };
    Some(RoutePlan {
        segments: path.segments.clone(),
        path: parsed(&path.segments)?,
        key: key(resource, path, is_list),
        access: access.cloned().unwrap_or(by_schema),
        asks: read.asks,
        is_list,
        shows: read.shows.iter().cloned().collect(),
        also: Vec::new(),
        query,
        vary: vary(api, read).collect(),
    })
}

/// The fields by which an answer is split.
fn vary<'a>(api: &'a Api, read: &'a Operation) -> impl Iterator<Item = String> + 'a {
    let is_key = |field: &str| { api.key_fields.iter() }.any(|key| key.eq_ignore_ascii_case(field));
    let fields = read.fields.iter().filter(move |field| !is_key(field));
    let names = fields.filter(|field| field.parse::<http::HeaderName>().is_ok());
    names.cloned()
}

/// What a route takes beside what it is for is kept as one of it, so it is asked for with all that it reads, and given to
/// nobody else.
fn heed_what_is_taken(api: &Api, plan: &mut Plan, is_said: bool) {
    for path in &api.paths {
        let Some(read) = &path.read else { continue };
        let has_its_own = |route: &RoutePlan| route.segments == path.segments;
        if plan.routes.iter().any(has_its_own) {
            continue;
        }
        let segments = sayable(&path.segments);
        let mut routes = plan.routes.iter_mut();
        let takes = |route: &&mut RoutePlan| meet(trimmed(&route.segments), trimmed(&segments));
        let Some(route) = routes.find(takes) else {
            continue;
        };
        if route.access == Access::Public && read.asks != Asks::Nothing && !is_said {
            (route.access, route.asks) = (Access::PerCredential, Asks::Optional);
        }
        for field in vary(api, read) {
            if !route.vary.contains(&field) {
                route.vary.push(field);
            }
        }
        let is_whole = parsed(&segments).is_some_and(|path| route.path.covers(&path));
        let said = plan.left_out.len();
        plan.left_out
            .retain(|(text, _)| !is_whole || *text != path.text);
        if plan.left_out.len() < said {
            route.also.push(path.text.clone());
        }
    }
}

/// What writes to a resource's own paths, and beneath them, drop.
fn own_rules(own: &Resource, all: &[Resource]) -> Vec<RulePlan> {
    let touched = touched(&[own], all);
    let others: Vec<&Resource> = { touched.iter() }
        .filter(|other| !std::ptr::eq(**other, own))
        .copied()
        .collect();
    let beside = match others.as_slice() {
        [] => String::new(),
        others => {
            let names: Vec<&str> = others.iter().map(|other| other.name.as_str()).collect();
            format!("; and with it {}", names.join(", "))
        }
    };
    let of_others = |at: &[Segment]| -> Vec<String> {
        let each = { others.iter() }.flat_map(|other| drops(other, at, Own::Exactly));
        each.collect()
    };
    let mut rules = Vec::new();
    let mut push = |methods: Vec<Method>, at: &[Segment], own: Vec<String>, why: &str| {
        if let Some(path) = parsed(at)
            && !methods.is_empty()
        {
            rules.push(RulePlan {
                segments: at.to_vec(),
                methods,
                path,
                keys: own.into_iter().chain(of_others(at)).collect(),
                why: format!("{why}{beside}"),
            });
        }
    };
    if let Some(list) = own.list {
        let at = &list.segments;
        let methods = list.writes.iter().map(|(method, _)| method.clone());
        let (created, other): (Vec<Method>, Vec<Method>) =
            methods.partition(|method| method == Method::POST);
        let listed = || dropped(own, true, at, Own::Exactly).into_iter().collect();
        let (listed, why) = match (own.mixed, is_beneath_another(at)) {
            // `/posts/latest/` is kept as if it were one of them.
            (true, _) => (
                drops(own, at, Own::Group),
                "a new one is in the list, and may be in what is kept beside single ones",
            ),
            (false, true) => (
                listed(),
                "a new one is in the list, and may come from another's",
            ),
            (false, false) => (listed(), "a new one is in the list"),
        };
        push(created, at, listed, why);
        push(other, at, drops(own, at, Own::Group), "many at once");
    }
    if let Some(detail) = own.detail {
        let at = &detail.segments;
        let methods = detail.writes.iter().map(|(method, _)| method.clone());
        let (how, why) = match (own.crowded, is_beneath_another(at)) {
            (true, _) => (
                Own::Group,
                "the list and all of them: this path also takes what is no single one",
            ),
            (false, true) => (
                Own::Group,
                "all lists and all of them: this one may be beneath another, too, or move there",
            ),
            (false, false) => (Own::Exactly, "the list and this one"),
        };
        push(methods.collect(), at, drops(own, at, how), why);
    }
    let mut name = "rest".to_owned();
    while captures(&own.base).any(|taken| taken == name) {
        name.push('_');
    }
    let converter = Converter::Path;
    let mut beneath = own.base.clone();
    beneath.push(Segment::Capture { name, converter });
    push(
        vec![Method::POST, Method::PUT, Method::PATCH, Method::DELETE],
        &beneath,
        drops(own, &beneath, Own::Group),
        "all else beneath: too much dropped costs a fetch, too little serves the past",
    );
    rules
}

/// How a resource's own things are dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    /// The one that the path names, where it names one.
    Exactly,
    Group,
}

/// The keys of a resource that a write at this path drops.
fn drops(resource: &Resource, at: &[Segment], own: Own) -> Vec<String> {
    let both = [true, false].map(|is_list| dropped(resource, is_list, at, own));
    both.into_iter().flatten().collect()
}

fn dropped(resource: &Resource, is_list: bool, at: &[Segment], own: Own) -> Option<String> {
    let path = match is_list {
        true => resource.list,
        false => resource.detail,
    }?;
    let stem = stem(resource, is_list);
    let exactly = own == Own::Exactly && !resource.crowded && !is_beneath_another(at);
    let names = names_in(trimmed(&path.segments), trimmed(at)).filter(|_| exactly);
    Some(match (captures(&path.segments).count(), names) {
        (0, _) => stem,
        (_, Some(names)) => {
            let names = names.iter().map(|name| format!(":{{{name}}}"));
            stem + &names.collect::<String>()
        }
        (count, None) => stem + &":*".repeat(count),
    })
}

/// Whatever a write to these may show in: themselves, what is above and beneath them, and all whose answers hold what these
/// are made of.
fn touched<'r, 'a>(own: &[&'r Resource<'a>], all: &'r [Resource<'a>]) -> Vec<&'r Resource<'a>> {
    let is = |one: &Resource, other: &Resource| std::ptr::eq(one, other);
    let related = |one: &Resource| {
        own.iter()
            .any(|own| is(own, one) || begins(&own.base, &one.base) || begins(&one.base, &own.base))
    };
    let core: Vec<&Resource> = all.iter().filter(|one| related(one)).collect();
    let shows = |one: &Resource| {
        core.iter()
            .any(|changed| !changed.is.is_disjoint(&one.holds))
    };
    let mut touched: Vec<&Resource> = own.to_vec();
    for one in all {
        let known = touched.iter().any(|known| is(known, one));
        if !known && (core.iter().any(|known| is(known, one)) || shows(one)) {
            touched.push(one);
        }
    }
    touched
}

/// Writes at paths that are nobody's own: what they answer or are sent may say whose they are. What is beneath a resource drops
/// that already, and answers much that it does not change: there counts what stands at its top.
fn elsewhere(path: &ApiPath, all: &[Resource], plan: &mut Plan) {
    let is = |one: Option<&ApiPath>| one.is_some_and(|one| std::ptr::eq(one, path));
    if all.iter().any(|one| is(one.list) || is(one.detail)) {
        return;
    }
    let own = trimmed(&path.segments);
    let above: Vec<&Resource> = { all.iter() }
        .filter(|one| begins(&one.base, own))
        .collect();
    let known = touched(&above, all);
    let knows = |one: &Resource| known.iter().any(|known| std::ptr::eq(*known, one));
    for (method, write) in &path.writes {
        let named: BTreeSet<&String> = match above.is_empty() {
            true => write.shows.union(&write.holds).collect(),
            false => write.shows.iter().collect(),
        };
        let changes = |one: &Resource| one.is.iter().any(|name| named.contains(name));
        let changed: Vec<&Resource> = { all.iter() }
            .filter(|one| !knows(one) && changes(one))
            .collect();
        let segments = sayable(&path.segments);
        let (Some(pattern), [_, ..]) = (parsed(&segments), changed.as_slice()) else {
            if above.is_empty() {
                plan.idle.push(format!("{method} {}", path.text));
            }
            continue;
        };
        let names: BTreeSet<&str> = { changed.iter() }
            .flat_map(|one| one.is.iter().filter(|name| named.contains(name)))
            .map(String::as_str)
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        let both: Vec<&Resource> = above.iter().chain(&changed).copied().collect();
        let touched = touched(&both, all);
        let keys = touched.iter().flat_map(|one| drops(one, &[], Own::Group));
        let keys = keys.collect();
        add_rule(
            plan,
            RulePlan {
                segments,
                methods: vec![method.clone()],
                path: pattern,
                keys,
                why: format!(
                    "it is sent or answers {}: take the rule out if it changes none",
                    names.join(", ")
                ),
            },
        );
    }
}

/// Whether it is the other path with a format suffix (`/users{format}`, `/users.{format}`), and takes the same writes. Those are
/// read as writes to that one, so another rule would only take what is not meant.
fn is_with_a_format(path: &ApiPath, bare: &ApiPath) -> bool {
    let own = path.text.trim_end_matches('/').strip_suffix("{format}");
    let methods = |path: &ApiPath| -> Vec<Method> {
        let each = { path.writes.iter() }.map(|(method, _)| method.clone());
        each.collect()
    };
    own.is_some_and(|own| {
        own.trim_end_matches('.') == bare.text.trim_end_matches('/')
            && methods(path)
                .iter()
                .all(|method| methods(bare).contains(method))
    })
}

fn add_route(plan: &mut Plan, route: RoutePlan) {
    let same =
        |known: &&RoutePlan| known.path.covers(&route.path) && route.path.covers(&known.path);
    match plan.routes.iter().find(same) {
        Some(known) => {
            let why = format!("it takes the same paths as {}", known.path.as_str());
            plan.left_out.push((route.path.as_str().to_owned(), why));
        }
        None => plan.routes.push(route),
    }
}

fn add_rule(plan: &mut Plan, mut rule: RulePlan) {
    let mut seen = BTreeSet::new();
    rule.keys.retain(|key| seen.insert(key.clone()));
    for known in &mut plan.rules {
        let same_path = known.path.covers(&rule.path) && rule.path.covers(&known.path);
        let meets = known.meets(&rule);
        if !same_path || !(meets || known.keys == rule.keys) {
            continue;
        }
        // Both take the same paths: what either drops is dropped. What one names by a capture the other may call otherwise.
        for key in &rule.keys {
            if !known.keys.contains(key) && !key.contains('{') {
                known.keys.push(key.clone());
            }
        }
        for method in rule.methods {
            if !known.methods.contains(&method) {
                known.methods.push(method);
            }
        }
        return;
    }
    plan.rules.push(rule);
}

/// A rule that takes a path under which something is kept drops that, too, whatever else it is there for: of two paths
/// that meet, like `/users/<id>/` and `/<name>/me/`, the first rule wins.
fn drop_what_is_met(plan: &mut Plan) {
    for rule in &mut plan.rules {
        for route in &plan.routes {
            if !meet(trimmed(&rule.segments), trimmed(&route.segments)) {
                continue;
            }
            let all = all_of(&route.key);
            if !rule.keys.iter().any(|key| all_of(key) == all) {
                rule.keys.push(all);
            }
        }
    }
}

/// `users:detail:{id}` → `users:detail:*`
fn all_of(key: &str) -> String {
    let mut pieces = key.split('{');
    let mut all = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        all.push('*');
        all.push_str(piece.split_once('}').map_or("", |(_, behind)| behind));
    }
    all
}

impl RulePlan {
    fn meets(&self, other: &RulePlan) -> bool {
        let mut own = self.methods.iter();
        own.any(|method| other.methods.contains(method))
    }
}

/// The first match wins: whatever is narrower stands before what takes all of its paths; else all stays as it is.
fn ordered<T>(mut left: Vec<T>, hides: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let free = |n: &usize| {
            let mut others = left.iter().enumerate();
            !others.any(|(other, one)| other != *n && hides(&left[*n], one))
        };
        // Nothing hides what hides it: one of them is free.
        let next = (0..left.len()).find(free).unwrap_or_default();
        ordered.push(left.remove(next));
    }
    ordered
}

/// A GET whose answer is for whoever may see anything.
fn verify_path(api: &Api) -> Option<String> {
    let words = [
        "me",
        "whoami",
        "userinfo",
        "self",
        "current-user",
        "user",
        "profile",
    ];
    words.iter().find_map(|word| {
        let mut paths = api.paths.iter().filter(|path| {
            let last = trimmed(&path.segments).last();
            let named = last == Some(&Segment::Literal((*word).to_owned()));
            let plain = captures(&path.segments).next().is_none();
            named
                && plain
                && path.odd.is_none()
                && path
                    .read
                    .as_ref()
                    .is_some_and(|read| !read.is_list && read.asks == Asks::Credential)
        });
        paths.next().map(|path| path.text.clone())
    })
}
