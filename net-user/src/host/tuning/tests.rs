use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::host::testing::{in_netns, run};

const RETRIES: &str = "net.ipv4.tcp_synack_retries";
const SOMAXCONN: &str = "net.core.somaxconn";
const RANGE: &str = "net.ipv4.ip_local_port_range";

fn change(name: &str, to: &str) -> Change {
    Change {
        name: name.to_owned(),
        from: "as proposed".to_owned(),
        to: to.to_owned(),
        why: "a test".to_owned(),
        outcome: None,
    }
}

fn open(directory: &Path) -> Tuner {
    let tuner = Tuner::open(directory);
    assert_eq!(tuner.problem(), None);
    tuner
}

fn outcome(change: &Change) -> &str {
    change.outcome.as_deref().unwrap()
}

fn values() -> [String; 3] {
    [RETRIES, SOMAXCONN, RANGE].map(|name| get(name).unwrap())
}

/// In a network namespace and a directory of its own.
fn lab(test: impl FnOnce(&Path) + Send) {
    in_netns(|| {
        let directory = tempfile::tempdir().unwrap();
        test(directory.path());
    });
}

#[test]
fn what_is_applied_is_remembered_over_a_restart_and_reverted_exactly() {
    lab(|directory| {
        let directory = &directory.join("netmoat");
        let before = values();
        let mut tuner = open(directory);
        assert_eq!(tuner.applied(), []);
        let done = tuner
            .apply(&[
                change(RETRIES, "2"),
                change(SOMAXCONN, "99"),
                change(RANGE, "20000\t30000"),
            ])
            .unwrap();
        assert_eq!(values(), ["2", "99", "20000 30000"]);
        for (change, before) in done.iter().zip(&before) {
            assert_eq!(&change.from, before);
            assert!(outcome(change).starts_with("set"), "{change:?}");
        }
        assert_eq!(done[0].why, "a test");
        drop(tuner);
        let mode = fs::metadata(directory.join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let mut tuner = open(directory);
        let applied = tuner.applied();
        assert_eq!(applied.len(), 3);
        assert_eq!(
            (applied[1].name.as_str(), applied[1].set.as_str()),
            (SOMAXCONN, "99")
        );
        assert_eq!(applied[1].before, before[1]);
        assert!(applied[1].at > 1_700_000_000);
        let reverted = tuner.revert().unwrap();
        assert_eq!(values(), before);
        assert_eq!(reverted.len(), 3);
        assert_eq!(
            (reverted[0].name.as_str(), outcome(&reverted[0])),
            (RANGE, "set back")
        );
        assert_eq!(reverted[0].from, "20000 30000");
        assert_eq!(reverted[0].to, before[2]);
        assert_eq!(tuner.applied(), []);
        assert_eq!(tuner.revert().unwrap(), []);
        drop(tuner);
        assert_eq!(open(directory).applied(), []);
    });
}

#[test]
fn a_setting_that_is_applied_twice_goes_back_to_its_first_value() {
    lab(|directory| {
        let before = values();
        let mut tuner = open(directory);
        tuner.apply(&[change(RETRIES, "3")]).unwrap();
        tuner.apply(&[change(RETRIES, "2")]).unwrap();
        let again = tuner.apply(&[change(RETRIES, "2")]).unwrap();
        assert_eq!(outcome(&again[0]), "it has this value already");
        let applied = tuner.applied();
        assert_eq!(applied.len(), 1);
        assert_eq!(
            (&applied[0].before, applied[0].set.as_str()),
            (&before[0], "2")
        );
        tuner.revert().unwrap();
        assert_eq!(values(), before);
        // Back to the first value by hand of the operator leaves nothing to revert.
        tuner.apply(&[change(RETRIES, "3")]).unwrap();
        tuner.apply(&[change(RETRIES, &before[0])]).unwrap();
        assert_eq!(tuner.applied(), []);
    });
}

#[test]
fn what_has_its_value_already_is_not_remembered() {
    lab(|directory| {
        let before = values();
        let mut tuner = open(directory);
        let done = tuner.apply(&[change(RETRIES, &before[0])]).unwrap();
        assert_eq!(outcome(&done[0]), "it has this value already");
        assert_eq!(tuner.applied(), []);
    });
}

#[test]
fn nothing_is_changed_when_one_cannot_be() {
    lab(|directory| {
        let before = values();
        let mut tuner = open(directory);
        tuner.apply(&[change(SOMAXCONN, "98")]).unwrap();
        let applied = tuner.applied();
        for (bad, part) in [
            (change(RETRIES, "300"), "refuses the value"),
            (
                change("net.ipv4.ip_forward", "1"),
                "no setting that netmoat changes",
            ),
            (change("net.ipv4.absent", "1"), "absent"),
        ] {
            let changes = [change(SOMAXCONN, "99"), change(RANGE, "20000 30000"), bad];
            let error = format!("{:#}", tuner.apply(&changes).unwrap_err());
            assert!(
                error.contains(part) && error.contains("nothing was changed"),
                "{error}"
            );
            assert_eq!(values(), [&before[0], "98", &before[2]]);
            assert_eq!(tuner.applied(), applied);
        }
        drop(tuner);
        assert_eq!(open(directory).applied(), applied);
    });
}

#[test]
fn what_somebody_else_changed_since_is_left_alone_and_said() {
    lab(|directory| {
        let before = values();
        let mut tuner = open(directory);
        tuner
            .apply(&[change(RETRIES, "2"), change(SOMAXCONN, "99")])
            .unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "4").unwrap();
        let reverted = tuner.revert().unwrap();
        assert_eq!(values(), ["4", &before[1], &before[2]]);
        let other = reverted
            .iter()
            .find(|change| change.name == RETRIES)
            .unwrap();
        assert!(outcome(other).starts_with("left alone"), "{other:?}");
        assert!(outcome(other).contains(&before[0]), "{other:?}");
        assert_eq!((other.from.as_str(), other.to.as_str()), ("4", "4"));
        assert_eq!(tuner.applied(), []);
        // What others set is what it was before the next time.
        tuner.apply(&[change(RETRIES, "2")]).unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "4").unwrap();
        tuner.apply(&[change(RETRIES, "1")]).unwrap();
        tuner.revert().unwrap();
        assert_eq!(values()[0], "4");
    });
}

#[test]
fn an_agent_killed_between_the_file_and_the_setting_left_what_it_was() {
    lab(|directory| {
        let before = values();
        drop(open(directory));
        let entry = Applied {
            name: RETRIES.to_owned(),
            before: before[0].clone(),
            set: "2".to_owned(),
            at: 1,
        };
        let mut tuner = open(directory);
        tuner.applied.push(entry);
        tuner.save().unwrap();
        drop(tuner);
        let mut tuner = open(directory);
        let reverted = tuner.revert().unwrap();
        assert_eq!(outcome(&reverted[0]), "it has its old value already");
        assert_eq!((values(), tuner.applied()), (before, vec![]));
    });
}

#[test]
fn what_was_set_before_a_reboot_is_forgotten() {
    lab(|directory| {
        let mut tuner = open(directory);
        tuner.apply(&[change(RETRIES, "2")]).unwrap();
        tuner.boot = "another boot".to_owned();
        tuner.save().unwrap();
        drop(tuner);
        let mut tuner = open(directory);
        assert_eq!((tuner.applied(), tuner.revert().unwrap()), (vec![], vec![]));
        assert_eq!(values()[0], "2");
    });
}

#[test]
fn a_damaged_file_is_put_aside_and_told_and_tuning_goes_on() {
    for (contents, part) in [
        ("{", "EOF"),
        ("", "EOF"),
        (r#"{"version": 2, "settings": []}"#, "version 2"),
        (r#"{"version": 1, "boot": "x"}"#, "applied"),
    ] {
        lab(|directory| {
            fs::write(directory.join(FILE), contents).unwrap();
            let mut tuner = Tuner::open(directory);
            let problem = tuner.problem().unwrap().to_owned();
            for part in [part, "damaged", "sysctl -w"] {
                assert!(problem.contains(part), "no {part} in {problem}");
            }
            let aside = directory.join("tune.json.damaged");
            assert_eq!(fs::read_to_string(aside).unwrap(), contents);
            tuner.apply(&[change(RETRIES, "2")]).unwrap();
            drop(tuner);
            assert_eq!(open(directory).applied().len(), 1);
        });
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_told_and_nothing_is_changed() {
    lab(|directory| {
        let before = values();
        let refused = |tuner: &mut Tuner, part: &str| {
            assert!(
                tuner.problem().unwrap().contains(part),
                "{:?}",
                tuner.problem()
            );
            let error = tuner
                .apply(&[change(RETRIES, "2")])
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
            assert!(tuner.revert().unwrap_err().to_string().contains(part));
        };
        let first = open(directory);
        refused(&mut Tuner::open(directory), "another agent");
        drop(first);
        refused(&mut Tuner::open(&directory.join("a/b")), "state_dir");
        let mut tuner = open(directory);
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        let error = tuner.apply(&[change(RETRIES, "2")]).unwrap_err();
        assert!(format!("{error:#}").contains("chmod go-w"), "{error:#}");
        drop(tuner);
        refused(&mut Tuner::open(directory), "chmod go-w");
        assert_eq!(values(), before);
    });
}

#[test]
fn settings_that_cannot_be_set_back_are_still_remembered() {
    lab(|directory| {
        let mut tuner = open(directory);
        tuner.apply(&[change(RETRIES, "2")]).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        run("mount", "--make-rprivate /");
        run("mount", "--bind /proc/sys /proc/sys");
        run("mount", "-o remount,ro,bind /proc/sys");
        let error = tuner.revert().unwrap_err().to_string();
        for part in ["1 of 1", "still remembered", RETRIES, "read-only"] {
            assert!(error.contains(part), "no {part} in {error}");
        }
        assert_eq!(tuner.applied().len(), 1);
        run("umount", "/proc/sys");
        tuner.revert().unwrap();
        assert_eq!(tuner.applied(), []);
    });
}
