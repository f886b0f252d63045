//! Django's side: `examples/django`, installed in the Django of these tests, tells Larder of what is written past it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Credential, Larder, Stage, Variant, get, login, patch};
use crate::{EIGHT, SEVEN, admin};

const LIST: &str = "/api/users/";

// ---- The seven functions ----

#[test]
fn what_is_cached_of_the_list_is_read_set_and_dropped_by_the_functions_of_the_guide() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    assert_eq!(shell.says("cache.get_cached_user_list()"), Value::Null);

    let truth = get(LIST).to(larder.port).json();
    assert_eq!(shell.says("cache.get_cached_user_list()"), truth);

    // Only Django's encoder knows how to write such values.
    let set = "cache.set_cached_user_list({'count': 0, 'at': datetime.date(2026, 11, 25), 'id': uuid.UUID(int=7)})";
    assert_eq!(shell.says(set), json!(true));
    let answer = get(LIST).to(larder.port);
    let expected =
        json!({"count": 0, "at": "2026-11-25", "id": "00000000-0000-0000-0000-000000000007"});
    assert!(answer.is_hit() && answer.json() == expected, "{answer:?}");

    warm(&larder, &[LIST, SEVEN]);
    assert_eq!(
        shell.says("cache.invalidate_user_list_cache()"),
        json!(true)
    );
    assert_eq!(shell.says("cache.get_cached_user_list()"), Value::Null);
    assert_kept(&larder, &[SEVEN]);
    assert_dropped(&larder, &[LIST]);
}

#[test]
fn what_is_cached_of_one_user_and_of_all_is_read_set_and_dropped_by_the_functions_of_the_guide() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    assert_eq!(shell.says("cache.get_cached_user(7)"), Value::Null);

    let truth = get(SEVEN).to(larder.port).json();
    assert_eq!(shell.says("cache.get_cached_user(7)"), truth);
    assert_eq!(
        shell.says("cache.set_cached_user('7', {'id': 7})"),
        json!(true)
    );
    let answer = get(SEVEN).to(larder.port);
    assert!(
        answer.is_hit() && answer.json() == json!({"id": 7}),
        "{answer:?}"
    );

    warm(&larder, &[LIST, SEVEN, EIGHT]);
    assert_eq!(shell.says("cache.invalidate_user_cache(7)"), json!(true));
    assert_kept(&larder, &[LIST, EIGHT]);
    assert_dropped(&larder, &[SEVEN]);

    warm(&larder, &[LIST, SEVEN, EIGHT]);
    assert_eq!(
        shell.says("cache.invalidate_all_user_caches()"),
        json!(true)
    );
    assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);
}

#[test]
fn an_id_that_is_no_plain_word_is_spelled_as_larder_spells_it_and_reaches_no_other_key() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder_with(|yaml| yaml.replace("/api/users/<int:id>/", "/api/users/<id>/"));
    let mut shell = Shell::open(&stage);
    for (id, key) in [
        ("7~state", "it360acad:users:detail:7%7Estate"),
        ("a:b/c d", "it360acad:users:detail:a%3Ab%2Fc%20d"),
        ("*", "it360acad:users:detail:%2A"),
        ("ж", "it360acad:users:detail:%D0%B6"),
    ] {
        let set = format!("cache.set_cached_user({}, {{'n': 1}})", json!(id));
        assert_eq!(shell.says(&set), json!(true), "{id}");
        assert_eq!(
            shell.says(&format!("cache.get_cached_user({})", json!(id))),
            json!({"n": 1})
        );
        assert_eq!(
            stage.redis_lines(&["-n", "1", "EXISTS", key]),
            ["1"],
            "{key}"
        );
        assert_eq!(
            shell.says(&format!("cache.invalidate_user_cache({})", json!(id))),
            json!(true)
        );
        assert_eq!(
            shell.says(&format!("cache.get_cached_user({})", json!(id))),
            Value::Null
        );
    }
    get(SEVEN).to(larder.port);
    shell.says("cache.invalidate_user_cache('*')");
    assert!(get(SEVEN).to(larder.port).is_hit());
}

/// All seven, as a view might call them.
const ALL_SEVEN: &str = "[cache.get_cached_user_list(), cache.set_cached_user_list([]), \
    cache.invalidate_user_list_cache(), cache.get_cached_user(7), cache.set_cached_user(7, {}), \
    cache.invalidate_user_cache(7), cache.invalidate_all_user_caches()]";

fn nothing_done() -> Value {
    json!([null, false, false, null, false, false, false])
}

#[test]
fn no_function_raises_when_larder_is_away_hangs_refuses_or_is_something_else() {
    let stage = Stage::open(Variant::Telling);
    // Accepts, by the kernel, and never answers.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = format!("http://{}", hangs.local_addr().unwrap());
    let something_else = format!("http://127.0.0.1:{}/api/other", stage.django);
    let redis = format!("http://127.0.0.1:{}", stage.redis);
    let mut shell = Shell::open(&stage);
    shell.does("records = []; cache.logger.handlers = [Recorder(records)]");
    for (url, limit) in [
        ("http://127.0.0.1:1", "30"),
        (&hangs, "0.1"),
        (&something_else, "30"),
        (&redis, "30"),
        ("http://no such host", "30"),
        ("http://127.0.0.1:99999", "30"),
        ("nonsense", "30"),
        ("http://127.0.0.1:1", "soon"),
    ] {
        shell.does(&format!(
            "settings.LARDER_ADMIN_URL = {}; settings.LARDER_TIMEOUT = {}; records.clear()",
            json!(url),
            json!(limit)
        ));
        assert_eq!(shell.says(ALL_SEVEN), nothing_done(), "{url}");
        let records = shell.says("records");
        assert_eq!(records.as_array().unwrap().len(), 7, "{url}: {records}");
    }
    // Switched off: nothing is asked, and nothing is said.
    shell.does("settings.LARDER_ADMIN_URL = ''; records.clear()");
    assert_eq!(shell.says(ALL_SEVEN), nothing_done());
    assert_eq!(shell.says("records"), json!([]));
}

#[test]
fn what_cannot_be_written_as_json_is_logged_and_not_stored() {
    let stage = Stage::open(Variant::Telling);
    let _larder = stage.larder();
    let mut shell = Shell::open(&stage);
    shell.does(
        "records = []; cache.logger.handlers = [Recorder(records)]; loop = []; loop.append(loop)",
    );
    for data in ["object()", "{'n': float('nan')}", "{(1, 2): 3}", "loop"] {
        let set = format!("cache.set_cached_user_list({data})");
        assert_eq!(shell.says(&set), json!(false), "{data}");
    }
    assert_eq!(shell.says("len(records)"), json!(4));
    assert_eq!(shell.says("cache.get_cached_user_list()"), Value::Null);
}

#[test]
fn the_admin_token_is_sent_and_is_in_no_log() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder_with(|yaml| format!("{yaml}\nadmin_token: open-sesame\n"));
    let mut shell = Shell::open(&stage);
    shell.does("records = []; cache.logger.handlers = [Recorder(records)]");
    for wrong in ["", "open-sesamf", "open-sesame\\nX: y"] {
        shell.does(&format!("settings.LARDER_ADMIN_TOKEN = '{wrong}'"));
        assert_eq!(shell.says(ALL_SEVEN), nothing_done());
    }
    let said = shell.says("records").to_string();
    assert!(said.contains("401") && !said.contains("sesam"), "{said}");

    shell.does("settings.LARDER_ADMIN_TOKEN = 'open-sesame'");
    let truth = get(LIST).to(larder.port).json();
    assert_eq!(shell.says("cache.get_cached_user_list()"), truth);
    assert_eq!(
        shell.says("cache.invalidate_user_list_cache()"),
        json!(true)
    );
    assert_dropped(&larder, &[LIST]);
}

// ---- Signals ----

#[test]
fn a_save_in_a_shell_is_seen_through_larder_at_once_after_its_commit() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    shell.does("user = User.objects.get(pk=7)");
    warm(&larder, &[LIST, SEVEN, EIGHT]);

    shell.does("user.first_name = 'Told'; user.save()");
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);
    assert_eq!(get(SEVEN).to(larder.port).json()["first_name"], "Told");

    warm(&larder, &[LIST, SEVEN]);
    shell.does(
        "open = transaction.atomic(); open.__enter__(); user.first_name = 'Later'; user.save()",
    );
    // Not committed: the copies are still the truth.
    assert_kept(&larder, &[LIST, SEVEN]);
    shell.does("open.__exit__(None, None, None)");
    assert_dropped(&larder, &[LIST, SEVEN]);
    assert_eq!(get(SEVEN).to(larder.port).json()["first_name"], "Later");
}

#[test]
fn a_create_and_a_delete_in_a_shell_are_seen_through_larder() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    let count = || get(LIST).to(larder.port).json()["count"].as_u64().unwrap();
    let before = count();
    shell.does("user = User.objects.create_user('made-in-a-shell')");
    assert_eq!(count(), before + 1);
    let made = format!("/api/users/{}/", shell.says("user.pk"));
    warm(&larder, &[&made, EIGHT]);
    shell.does("user.delete()");
    assert_kept(&larder, &[EIGHT]);
    assert_eq!(count(), before);
    assert_eq!(get(&made).to(larder.port).status, 404);
}

#[test]
fn a_save_in_djangos_admin_is_seen_through_larder() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    warm(&larder, &[LIST, SEVEN]);
    shell.does(
        "from django.test import Client\n\
         client = Client()\n\
         client.force_login(User.objects.get(username='admin'))\n\
         answer = client.post('/admin/users/user/7/change/', {'username': 'student07', 'first_name': 'Administered', \
         'date_joined_0': '2026-01-01', 'date_joined_1': '00:00:00', 'is_active': 'on'})",
    );
    assert_eq!(shell.says("answer.status_code"), json!(302));
    assert_dropped(&larder, &[LIST, SEVEN]);
    assert_eq!(
        get(SEVEN).to(larder.port).json()["first_name"],
        "Administered"
    );
}

#[test]
fn a_write_through_larder_that_django_announces_as_well_is_answered_and_seen() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    for name in ["Once", "Twice"] {
        warm(&larder, &[LIST, SEVEN]);
        let write = patch(SEVEN).by(&admin()).json(&json!({"first_name": name}));
        assert_eq!(write.to(larder.port).status, 200);
        assert_dropped(&larder, &[LIST, SEVEN]);
        assert_eq!(get(SEVEN).to(larder.port).json()["first_name"], name);
    }
}

#[test]
fn what_is_rolled_back_purges_nothing() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    shell.does("user = User.objects.get(pk=7); other = User.objects.get(pk=8)");
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does(
        "try:\n    with transaction.atomic():\n        user.save()\n        other.delete()\n        \
         User.objects.update(role='parent')\n        raise LookupError\nexcept LookupError:\n    pass",
    );
    assert_kept(&larder, &[LIST, SEVEN, EIGHT]);

    // To a savepoint: what is saved outside of it holds, and what is saved within does not.
    shell.does("user = User.objects.get(pk=7); other = User.objects.get(pk=8)");
    shell.does(
        "with transaction.atomic():\n    try:\n        with transaction.atomic():\n            other.save()\n            \
         raise LookupError\n    except LookupError:\n        pass\n    user.save()",
    );
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);

    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does(
        "with transaction.atomic():\n    user.save()\n    try:\n        with transaction.atomic():\n            \
         user.save()\n            other.save()\n            raise LookupError\n    except LookupError:\n        pass",
    );
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);

    // And nothing is left over for the next transaction.
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does("other.save()");
    assert_kept(&larder, &[SEVEN]);
    assert_dropped(&larder, &[LIST, EIGHT]);
}

#[test]
fn a_transaction_makes_one_purge_however_many_users_it_saves() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    shell.does("purges = []; ask = cache.purge; cache.purge = lambda keys: (purges.append(keys), ask(keys))");
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does(
        "with transaction.atomic():\n    User.objects.get(pk=7).save()\n    \
         with transaction.atomic():\n        User.objects.get(pk=8).save()\n        \
         User.objects.update_or_create(pk=7, defaults={'first_name': 'Nested'})\n    \
         for _ in range(20):\n        User.objects.get(pk=8).save()",
    );
    assert_eq!(
        shell.says("purges"),
        json!([["users:detail:7", "users:detail:8", "users:list"]])
    );
    assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);

    // Many of them are as cheap as one.
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does(
        "purges.clear()\nwith transaction.atomic():\n    for n in range(120):\n        \
         User.objects.create(username=f'one-of-many-{n}')",
    );
    assert_eq!(
        shell.says("purges"),
        json!([["users:detail:*", "users:list"]])
    );
    assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);

    // A queryset's delete fires a signal for each: that is one purge, too.
    shell.does("purges.clear(); User.objects.filter(username__startswith='one-of-many').delete()");
    assert_eq!(shell.says("len(purges)"), json!(1));
}

#[test]
fn a_hundred_logins_drop_nothing() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    warm(&larder, &[LIST, SEVEN]);
    shell.does(
        "from django.test import Client\nuser = User.objects.get(pk=7)\nbefore = user.last_login\n\
         for _ in range(100):\n    Client().force_login(user)\nuser.refresh_from_db()",
    );
    assert_eq!(shell.says("user.last_login != before"), json!(true));
    Credential::from_login(&login("student07").to(stage.django));
    assert_kept(&larder, &[LIST, SEVEN]);

    // Together with another field it is a write as any other.
    shell.does("user.save(update_fields=['last_login', 'first_name'])");
    assert_dropped(&larder, &[LIST, SEVEN]);
}

#[test]
fn a_change_of_the_groups_of_a_user_drops_their_copies_from_either_side() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    shell.does(
        "from django.contrib.auth.models import Group\nuser = User.objects.get(pk=7)\n\
         group, _ = Group.objects.get_or_create(name='choir')\ngroup.user_set.clear()",
    );
    for change in [
        "user.groups.add(group)",
        "user.groups.remove(group)",
        "group.user_set.add(user)",
        "group.user_set.remove(user)",
        "group.user_set.set([user])",
        "user.groups.clear()",
    ] {
        warm(&larder, &[LIST, SEVEN, EIGHT]);
        shell.does(change);
        assert_kept(&larder, &[EIGHT]);
        assert_dropped(&larder, &[LIST, SEVEN]);
    }
    // Nobody says whom that takes out.
    shell.does("user.groups.add(group)");
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does("group.user_set.clear()");
    assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);
}

/// As an app of the project would have them, with their tables.
fn declared(shell: &mut Shell, models: &[&str], python: &str) {
    shell.does(&format!(
        "from django.db import connection, models\nfrom users.managers import PurgingQuerySet\n{python}"
    ));
    for model in models {
        shell.does(&format!(
            "editor = connection.schema_editor(); editor.__enter__(); editor.create_model({model}); editor.__exit__(None, None, None)"
        ));
    }
}

#[test]
fn a_group_that_is_deleted_drops_those_who_were_in_it() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    shell.does("from django.contrib.auth.models import Group\nuser = User.objects.get(pk=7)");
    for delete in [
        "band.delete()",
        "Group.objects.filter(name='band').delete()",
    ] {
        shell.does("band = Group.objects.create(name='band'); band.user_set.add(user)");
        warm(&larder, &[LIST, SEVEN]);
        shell.does(delete);
        assert_dropped(&larder, &[LIST, SEVEN]);
    }
}

#[test]
fn a_many_to_many_field_that_another_model_declares_drops_the_users_at_its_other_end() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    declared(
        &mut shell,
        &["Team", "Member"],
        "class Team(models.Model):\n    users = models.ManyToManyField(User, through='Member', related_name='teams')\n    \
         class Meta: app_label = 'users'\n\
         class Member(models.Model):\n    team = models.ForeignKey(Team, models.CASCADE)\n    \
         user = models.ForeignKey(User, models.CASCADE)\n    class Meta: app_label = 'users'\n",
    );
    connected(&mut shell, "shown=['teams']");
    // Of another number than the user's.
    shell.does("[Team.objects.create() for _ in range(30)]; team = Team.objects.latest('pk')");
    for (change, drops_all) in [
        ("team.users.add(user)", false),
        ("team.users.remove(user)", true),
        ("user.teams.add(team)", false),
        ("user.teams.clear()", true),
        ("Member.objects.create(team=team, user=user)", true),
        ("Member.objects.get().delete()", true),
        ("team.users.add(user)", false),
        ("team.delete()", true),
    ] {
        warm(&larder, &[LIST, SEVEN, EIGHT]);
        shell.does(change);
        assert_dropped(&larder, &[LIST, SEVEN]);
        if !drops_all {
            assert_kept(&larder, &[EIGHT]);
        }
    }
}

#[test]
fn friends_are_dropped_at_both_ends() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    declared(
        &mut shell,
        &["User.friends.through"],
        "models.ManyToManyField('self').contribute_to_class(User, 'friends')",
    );
    connected(&mut shell, "shown=['friends']");
    shell.does("friend = User.objects.get(pk=8)");
    const NINE: &str = "/api/users/9/";
    for change in ["user.friends.add(friend)", "user.friends.remove(friend)"] {
        warm(&larder, &[LIST, SEVEN, EIGHT, NINE]);
        shell.does(change);
        assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);
        assert_kept(&larder, &[NINE]);
    }
    shell.does("leaver = User.objects.create_user('leaver'); leaver.friends.add(friend)");
    warm(&larder, &[EIGHT]);
    shell.does("leaver.delete()");
    assert_dropped(&larder, &[EIGHT]);
}

/// Teachers are shown everybody's address, students their own alone.
#[test]
fn where_it_depends_on_who_reads_a_save_of_a_user_may_drop_what_they_were_shown_of_others() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    connected(&mut shell, "others=[User]");
    let teacher = Credential::token("teacher");
    let shown = || get(SEVEN).by(&teacher).to(larder.port);
    shown();
    shell.does("user = User.objects.get(username='teacher')");
    shell.does("user.last_login = None; user.save(update_fields=['last_login'])");
    assert!(shown().is_hit() && !shown().json()["email"].is_null());
    shell.does("user.role = 'student'; user.save()");
    let email = shown().json()["email"].clone();
    shell.does("user.role = 'teacher'; user.save()");
    assert!(email.is_null(), "{email}");
}

/// Django reads what has a receiver before it deletes it, and holds all of it meanwhile.
#[test]
fn what_shows_nothing_of_users_is_deleted_without_being_read() {
    let stage = Stage::open(Variant::Telling);
    let mut shell = Shell::open(&stage);
    shell.does(
        "from django.contrib.sessions.models import Session\nfrom django.db.models.deletion import Collector",
    );
    let fast =
        |model: &str| format!("Collector(using='default').can_fast_delete({model}.objects.all())");
    assert_eq!(shell.says(&fast("Session")), json!(true));
    assert_eq!(shell.says(&fast("User.groups.through")), json!(true));
}

/// In the place of what `apps.py` has connected.
fn connected(shell: &mut Shell, how: &str) {
    shell.does(&format!(
        "from django.contrib.auth.models import Group\nfrom django.db.models.signals import post_delete, post_save\n\
         from users import signals\nuser = User.objects.get(pk=7)\n\
         from django.apps import apps\n\
         for model in apps.get_models():\n  \
           for signal in (post_save, post_delete): signal.disconnect(sender=model, dispatch_uid='larder:users.User')\n\
         signals.connect(User, {how})"
    ));
}

#[test]
fn a_write_of_another_model_that_users_show_something_of_drops_all_of_them() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    connected(&mut shell, "others=[Group]");
    for change in [
        "group = Group.objects.create(name='orchestra')",
        "group.name = 'ensemble'; group.save()",
        "from django.contrib.auth.models import Permission; permission = Permission.objects.first(); group.permissions.add(permission)",
        "permission.delete()",
        "group.delete()",
    ] {
        warm(&larder, &[LIST, SEVEN, EIGHT]);
        shell.does(change);
        assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);
    }
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does("user.save()");
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);
}

#[test]
fn where_paths_name_users_by_something_else_than_their_primary_key_a_save_drops_all_of_them() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    connected(&mut shell, "lookup='username'");
    // Whose copy stands at `users:detail:student08` is known to Larder alone.
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does("user.username = 'renamed'; user.save()");
    assert_dropped(&larder, &[LIST, SEVEN, EIGHT]);
    connected(&mut shell, "lookup='id'");
    warm(&larder, &[LIST, SEVEN, EIGHT]);
    shell.does("user.save()");
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);
}

#[test]
fn a_purge_waits_for_the_commit_on_the_database_that_was_written_to() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    // A second way to the same file: what counts is whose transaction it is.
    shell.does("from django.db import connections; connections.databases['other'] = dict(connections.databases['default'])");
    shell.does("user = User.objects.get(pk=7)");
    for write in [
        "user.save(using='other')",
        "User.objects.using('other').filter(pk=7).update(first_name='Other')",
        "User.objects.using('other').bulk_update([user], ['first_name'])",
    ] {
        warm(&larder, &[LIST, SEVEN]);
        shell.does(&format!(
            "open = transaction.atomic(using='other'); open.__enter__(); {write}"
        ));
        assert_kept(&larder, &[LIST, SEVEN]);
        shell.does("open.__exit__(None, None, None)");
        assert_dropped(&larder, &[LIST, SEVEN]);
    }
}

// ---- Bulk writes ----

#[test]
fn what_is_written_from_the_other_end_of_a_foreign_key_is_seen_with_a_base_manager_that_purges() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    declared(
        &mut shell,
        &["House", "Pupil"],
        "class House(models.Model):\n    class Meta: app_label = 'users'\n\
         class Pupil(models.Model):\n    house = models.ForeignKey(House, models.SET_NULL, null=True)\n    \
         objects = PurgingQuerySet.as_manager()\n    \
         class Meta: app_label = 'users'; base_manager_name = 'objects'\n",
    );
    shell.does("house = House.objects.create(); pupil = Pupil.objects.create()");
    for (change, is_in) in [
        ("house.pupil_set.add(pupil)", true),
        ("house.pupil_set.clear()", false),
        ("house.pupil_set.set([pupil])", true),
        ("house.delete()", false),
    ] {
        warm(&larder, &[LIST, SEVEN]);
        shell.does(change);
        assert_dropped(&larder, &[LIST, SEVEN]);
        let says = "Pupil.objects.get().house_id is not None";
        assert_eq!(shell.says(says), json!(is_in), "{change}");
    }
}

#[test]
fn bulk_writes_are_seen_through_larder() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    let first_name = || get(SEVEN).to(larder.port).json()["first_name"].clone();
    let count = || get(LIST).to(larder.port).json()["count"].as_u64().unwrap();
    let all = [LIST, SEVEN, EIGHT];

    warm(&larder, &all);
    shell.does("User.objects.filter(pk=7).update(first_name='Updated')");
    assert_dropped(&larder, &all);
    assert_eq!(first_name(), "Updated");

    warm(&larder, &all);
    shell.does("user = User.objects.get(pk=7); user.first_name = 'Bulk'; User.objects.bulk_update([user], ['first_name'])");
    assert_dropped(&larder, &all);
    assert_eq!(first_name(), "Bulk");

    warm(&larder, &all);
    let before = count();
    shell.does("User.objects.bulk_create([User(username='bulk-1'), User(username='bulk-2')])");
    assert_dropped(&larder, &all);
    assert_eq!(count(), before + 2);

    warm(&larder, &all);
    shell.does("User.objects.filter(username__startswith='bulk-').delete()");
    assert_dropped(&larder, &all);
    assert_eq!(count(), before);

    // What is no write, or does not show, drops nothing.
    warm(&larder, &all);
    shell.does(
        "User.objects.none().delete(); User.objects.filter(pk=0).update(first_name='Nobody')",
    );
    shell.does("User.objects.bulk_create([]); User.objects.bulk_update([], ['first_name'])");
    shell.does(
        "User.objects.update(last_login=None); User.objects.bulk_update([user], ['last_login'])",
    );
    assert_kept(&larder, &all);
    assert_eq!(shell.says("hasattr(User.objects, 'delete')"), json!(false));
}

// ---- The command ----

#[test]
fn the_command_drops_what_it_is_told_and_says_so() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let all = [LIST, SEVEN, EIGHT];
    warm(&larder, &all);
    let done = purge(&stage, &["list", "7"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(
        text(&done.stdout),
        "purged users:list\npurged users:detail:7\n"
    );
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);

    warm(&larder, &all);
    let done = purge(&stage, &["--all"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_dropped(&larder, &all);

    warm(&larder, &[LIST]);
    let done = purge(&stage, &["--soft", "list"]);
    assert_eq!(text(&done.stdout), "outdated users:list\n");
    let served = get(LIST).by(&readers()[0]).to(larder.port);
    assert!(
        served.cache_status().contains("detail=soft-purge"),
        "{served:?}"
    );
}

#[test]
fn the_command_fails_with_the_reason_when_nothing_was_dropped() {
    let stage = Stage::open(Variant::Telling);
    for arguments in [&[][..], &["--all", "7"]] {
        let wrong = purge(&stage, arguments);
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        assert!(
            text(&wrong.stderr).contains("say what to drop"),
            "{wrong:?}"
        );
    }
    let away = purge(&stage, &["list"]);
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(
        text(&away.stderr).contains("Connection refused"),
        "{away:?}"
    );
    assert_eq!(text(&away.stdout), "");
}

fn purge(stage: &Stage, arguments: &[&str]) -> Output {
    let arguments = [&["larder_purge"], arguments].concat();
    stage.manage(&arguments).output().unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

// ---- Without Larder ----

#[test]
fn without_larder_the_app_answers_as_ever_and_its_log_says_what_was_not_dropped() {
    let stage = Stage::open(Variant::Telling);
    let write = patch(SEVEN)
        .by(&admin())
        .json(&json!({"first_name": "Alone"}));
    assert_eq!(write.to(stage.django).status, 200);
    assert_eq!(get(SEVEN).to(stage.django).json()["first_name"], "Alone");
    let said = stage.django_logged("users:detail:7 users:list: copies may be stale");
    assert!(said[0].contains("refused"), "{said:?}");
}

#[test]
fn where_each_tenant_has_a_larder_each_is_told() {
    let stage = Stage::open(Variant::Open);
    let [one, other] = ["one", "other"].map(|tenant| {
        stage.larder_with(|yaml| yaml.replace("prefix: it360acad", &format!("prefix: {tenant}")))
    });
    let mut shell = Shell::open(&stage);
    shell.does(&format!(
        "settings.LARDER_ADMIN_URL = 'http://127.0.0.1:{}/ http://127.0.0.1:{}'; settings.LARDER_PREFIX = 'one other'",
        one.admin, other.admin
    ));
    let both = [&one, &other];
    for larder in both {
        warm(larder, &[LIST, SEVEN, EIGHT]);
    }
    assert_eq!(shell.says("cache.invalidate_user_cache(7)"), json!(true));
    for larder in both {
        assert_kept(larder, &[LIST, EIGHT]);
        assert_dropped(larder, &[SEVEN]);
    }

    // One that is not there keeps nobody else from being told, and its state keys can be deleted.
    let away = format!(
        "settings.LARDER_ADMIN_URL = 'http://127.0.0.1:1 http://127.0.0.1:{}'",
        other.admin
    );
    shell.does(&away);
    for larder in both {
        warm(larder, &[SEVEN]);
    }
    assert_eq!(shell.says("cache.invalidate_user_cache(7)"), json!(false));
    assert_kept(&one, &[SEVEN]);
    assert_dropped(&other, &[SEVEN]);
    shell.does(&format!(
        "settings.LARDER_REDIS_URL = 'redis://127.0.0.1:{}'",
        stage.redis
    ));
    assert_eq!(shell.says("cache.invalidate_user_cache(7)"), json!(true));
    assert_dropped(&one, &[SEVEN]);
}

#[test]
fn of_several_one_that_is_away_takes_nothing_from_what_another_holds() {
    let stage = Stage::open(Variant::Open);
    let lagging = r#"upstream: {url: "${UPSTREAM}", lag: 1m}"#;
    let larder = stage.larder_with(|yaml| {
        yaml.replace("prefix: it360acad", "prefix: other")
            .replace("upstream: ${UPSTREAM:-http://127.0.0.1:8000}", lagging)
    });
    let mut shell = Shell::open(&stage);
    shell.does(&format!(
        "settings.LARDER_ADMIN_URL = 'http://127.0.0.1:1 http://127.0.0.1:{}'; settings.LARDER_PREFIX = 'one other'; \
         settings.LARDER_REDIS_URL = 'redis://127.0.0.1:{}'",
        larder.admin, stage.redis
    ));
    warm(&larder, &[SEVEN]);
    assert_eq!(shell.says("cache.invalidate_user_cache(7)"), json!(true));
    // What is read of a replica until the lag is over is not kept.
    for _ in 0..2 {
        assert_dropped(&larder, &[SEVEN]);
    }
}

#[test]
fn with_the_stores_url_an_invalidation_reaches_redis_when_larders_listener_does_not_answer() {
    let stage = Stage::open(Variant::Telling);
    let larder = stage.larder();
    let mut shell = Shell::open(&stage);
    // The path is Celery's, and its own key of that name must stay.
    stage.redis_cli(&["-n", "0", "SET", "it360acad:users:list~state", "Celery's"]);
    shell.does(&format!(
        "settings.LARDER_ADMIN_URL = 'http://127.0.0.1:1'; settings.LARDER_REDIS_URL = 'redis://127.0.0.1:{}/0'",
        stage.redis
    ));
    let all = [LIST, SEVEN, EIGHT];
    for (call, dropped) in [
        ("cache.invalidate_user_list_cache()", &[LIST][..]),
        ("cache.invalidate_user_cache(7)", &[SEVEN]),
        ("cache.invalidate_all_user_caches()", &all),
    ] {
        warm(&larder, &all);
        assert_eq!(shell.says(call), json!(true), "{call}");
        let kept: Vec<&str> = all
            .into_iter()
            .filter(|one| !dropped.contains(one))
            .collect();
        assert_kept(&larder, &kept);
        assert_dropped(&larder, dropped);
    }
    // Reading and setting compare and need epochs, which are Larder's alone.
    assert_eq!(shell.says("cache.get_cached_user(7)"), Value::Null);
    assert_eq!(shell.says("cache.set_cached_user(7, {})"), json!(false));
    assert_eq!(
        stage.redis_lines(&["-n", "0", "GET", "it360acad:users:list~state"]),
        ["Celery's"]
    );

    // Signals take the same way, and with no admin listener at all it is the only one.
    shell.does("settings.LARDER_ADMIN_URL = ''");
    warm(&larder, &all);
    shell.does("user = User.objects.get(pk=7); user.first_name = 'Redis'; user.save()");
    assert_kept(&larder, &[EIGHT]);
    assert_dropped(&larder, &[LIST, SEVEN]);

    shell.does("records = []; cache.logger.handlers = [Recorder(records)]");
    for url in [
        "redis://:hush@127.0.0.1:1/0",
        "redis://:hush@127.0.0.1:hush/0",
        "hush",
    ] {
        shell.does(&format!("settings.LARDER_REDIS_URL = '{url}'"));
        assert_eq!(
            shell.says("cache.invalidate_user_list_cache()"),
            json!(false)
        );
    }
    let said = shell.says("records");
    assert_eq!(said.as_array().unwrap().len(), 3);
    assert!(!said.to_string().contains("hush"), "{said}");
}

#[test]
fn the_states_that_are_deleted_in_redis_are_those_that_larder_drops() {
    let stage = Stage::open(Variant::Telling);
    // As keys may be below `i18n_patterns`, and `USER_LIST` and `ALL_USERS` then.
    let _larder = stage.larder_with(|yaml| {
        yaml.replace(
            "\nroutes:",
            "\nroutes:\n  - {path: /<l>/u/, key: 'all:{l}:list'}\n  - {path: /<l>/u/<int:id>/, key: 'all:{l}:{id}'} #",
        )
    });
    let mut shell = Shell::open(&stage);
    for key in [
        "users:list",
        "users:detail:7",
        "users:detail:*",
        "all:*:list",
        "all:*:*",
    ] {
        let dropped = format!(
            "cache._ask('POST', '/purge', cache.json.dumps({{'keys': ['{key}']}}).encode())['purged']"
        );
        let deleted = shell.says(&format!("[cache.state_key('it360acad', '{key}')]"));
        let dropped = shell.says(&dropped);
        let dropped = dropped[0].as_str().unwrap_or_default();
        assert_eq!(deleted, json!([format!("it360acad:{dropped}")]), "{key}");
    }
}

// ---- What these tests share ----

fn readers() -> [Credential; 2] {
    [Credential::Anonymous, admin()]
}

/// These, read by everybody until they are hits.
#[track_caller]
fn warm(larder: &Larder, targets: &[&str]) {
    for target in targets {
        for reader in readers() {
            get(target).by(&reader).to(larder.port);
        }
    }
    assert_kept(larder, targets);
}

/// That everybody is still given the copies of these.
#[track_caller]
fn assert_kept(larder: &Larder, targets: &[&str]) {
    for target in targets {
        for reader in readers() {
            let answer = get(target).by(&reader).to(larder.port);
            assert!(answer.is_hit(), "{target} for {reader:?}: {answer:?}");
        }
    }
}

/// That nobody is given the copies of these.
#[track_caller]
fn assert_dropped(larder: &Larder, targets: &[&str]) {
    for target in targets {
        for reader in readers() {
            let answer = get(target).by(&reader).to(larder.port);
            assert!(!answer.is_hit(), "{target} for {reader:?}: {answer:?}");
        }
    }
}

/// A management shell that is told line by line what to do, so that a test can look while a transaction is open.
struct Shell {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn open(stage: &Stage) -> Self {
        // It answers each line of JSON with another; what goes wrong ends it, and stands on standard error.
        const LISTEN: &str = "
import datetime, json, logging, sys, uuid
from django.conf import settings
from django.db import transaction
from users import cache
from users.models import User
class Recorder(logging.Handler):
    def __init__(self, records):
        super().__init__()
        self.records = records
    def emit(self, record):
        self.records.append(record.getMessage())
names = dict(globals())
for line in sys.stdin:
    kind, words = json.loads(line)
    said = eval(words, names) if kind == 'says' else exec(words, names)
    print(json.dumps(said), flush=True)
";
        let mut command: Command =
            stage.manage(&["shell", "--verbosity", "0", "--command", LISTEN]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Shell {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// The value of this expression.
    #[track_caller]
    fn says(&mut self, expression: &str) -> Value {
        self.ask("says", expression)
    }

    #[track_caller]
    fn does(&mut self, statements: &str) {
        self.ask("does", statements);
    }

    #[track_caller]
    fn ask(&mut self, kind: &str, words: &str) -> Value {
        writeln!(self.input, "{}", json!([kind, words])).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{words}: {line}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
