//! What `netmoat probe` tells of TLS where all is well, or nearly; what breaks is in `cases.rs`.

use std::process::Command;

use net_tests::{
    probe::{
        cases::tls::{NAME, Shop},
        certificates::self_signed,
        probe,
        web::Site,
    },
    process::workspace_binary,
};
use serde_json::{Value, json};

fn facts(stage: &Value) -> &Value {
    &stage["facts"]["tls"]
}

fn codes(stage: &Value) -> Vec<&str> {
    let findings = stage["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect()
}

#[test]
fn a_sound_site_is_told_with_all_that_was_agreed_and_proven() {
    let shop = Shop::new();
    let authority = shop.root.below("Laboratory Authority");
    let _web = shop.serve(&authority.issue(&[NAME, "*.shop.test"]), "");
    let probed = shop.probe(&[]);
    let stage = probed.stage("tls");
    assert_eq!(stage["outcome"], "ok", "{stage:#}");
    let told = facts(stage);
    for (field, value) in [
        ("sni", json!(NAME)),
        ("version", json!("TLS 1.3")),
        ("cipher", json!("TLS_AES_256_GCM_SHA384")),
        ("group", json!("X25519")),
        ("alpn", json!("h2")),
        ("alpn_offered", json!(["h2", "http/1.1"])),
        ("handshake", json!("full")),
        ("round_trips", json!(1)),
        ("verified", json!(true)),
        ("staple", Value::Null),
        ("client_certificate_asked", json!(false)),
    ] {
        assert_eq!(told[field], value, "{field}: {stage:#}");
    }
    let chain = told["chain"].as_array().unwrap();
    assert_eq!(chain.len(), 2, "{stage:#}");
    assert_eq!(chain[0]["subject"], format!("CN={NAME}"));
    assert_eq!(chain[0]["issuer"], "CN=Laboratory Authority");
    assert_eq!(chain[0]["names"], json!([NAME, "*.shop.test"]));
    // Seconds are all that certificates know.
    let days = chain[0]["days_left"].as_i64().unwrap();
    assert!((89..=90).contains(&days), "{days}");
    assert_eq!(chain[0]["key"], "EC P-256");
    assert_eq!(chain[0]["signature"], "ecdsa-with-SHA256");
    assert_eq!(chain[0]["authority"], false);
    assert_eq!(chain[1]["issuer"], "CN=Laboratory Root");
    assert_eq!(chain[1]["authority"], true);
    // The answer came within the handshake.
    let first = told["first_answer_us"].as_u64().unwrap();
    let whole = stage["duration_us"].as_u64().unwrap();
    assert!(0 < first && first <= whole, "{stage:#}");
}

#[test]
fn what_a_server_offers_for_the_next_time_is_tried() {
    // Directives; resumed; round trips of the first and of the second handshake.
    let tickets = "ssl_session_tickets on; ssl_session_cache off;";
    let nothing = "ssl_session_tickets off; ssl_session_cache off;";
    for (directives, resumed, round_trips) in [
        (format!("ssl_protocols TLSv1.3; {tickets}"), true, (1, 1)),
        (format!("ssl_protocols TLSv1.2; {tickets}"), true, (2, 1)),
        (format!("ssl_protocols TLSv1.2; {nothing}"), false, (2, 2)),
    ] {
        let shop = Shop::new();
        let _web = shop.serve(&shop.root.issue(&[NAME]), &directives);
        let probed = shop.probe(&[]);
        let stage = probed.stage("tls");
        let told = facts(stage);
        let second = &told["resumption"];
        assert_eq!(stage["outcome"], "ok", "{directives}: {stage:#}");
        assert_eq!(second["resumed"], resumed, "{directives}: {stage:#}");
        assert_eq!(
            (&told["round_trips"], &second["round_trips"]),
            (&json!(round_trips.0), &json!(round_trips.1)),
            "{directives}: {stage:#}"
        );
        assert_eq!(second["early_data_octets"], 0, "{directives}: {stage:#}");
        let is_told = codes(stage).contains(&"tls_not_resumed");
        assert_eq!(is_told, !resumed, "{directives}: {stage:#}");
    }
    let shop = Shop::new();
    let _web = shop.serve(&shop.root.issue(&[NAME]), "ssl_early_data on;");
    let probed = shop.probe(&[]);
    let second = &facts(probed.stage("tls"))["resumption"];
    assert!(
        second["early_data_octets"].as_u64().unwrap() > 0,
        "{second:#}"
    );
    let alone = shop.probe(&["--no-checks"]);
    assert_eq!(facts(alone.stage("tls"))["resumption"], Value::Null);
}

#[test]
fn a_server_that_wants_another_group_first_costs_a_round_trip() {
    let shop = Shop::new();
    let directives = "ssl_protocols TLSv1.3; ssl_ecdh_curve secp384r1;";
    let _web = shop.serve(&shop.root.issue(&[NAME]), directives);
    let probed = shop.probe(&[]);
    let told = facts(probed.stage("tls"));
    assert_eq!(told["handshake"], "full_after_retry", "{told:#}");
    assert_eq!(told["round_trips"], 2, "{told:#}");
    assert_eq!(told["group"], "secp384r1", "{told:#}");
}

#[test]
fn an_address_is_asked_for_without_a_name_and_held_to_the_certificate() {
    let shop = Shop::new();
    let address = shop.hosts.server.v4.to_string();
    let ca = shop.file("root.pem", &shop.root.pem());
    let url = format!("https://{address}/");
    {
        let _web = shop.serve(&shop.root.issue(&[&address]), "");
        let probed = probe(&shop.hosts.attacker, &[&url, "--ca", &ca]);
        let stage = probed.stage("tls");
        assert_eq!(stage["outcome"], "ok", "{stage:#}");
        assert_eq!(facts(stage)["sni"], Value::Null);
        assert_eq!(facts(stage)["chain"][0]["names"], json!([address]));
    }
    let _web = shop.serve(&shop.root.issue(&[NAME]), "");
    let probed = probe(&shop.hosts.attacker, &[&url, "--ca", &ca]);
    probed.expect("failed", Some("tls"), Some("certificate_wrong_name"));
    let verdict = probed.report["verdict"].as_str().unwrap();
    assert!(
        verdict.contains(&address) && verdict.contains(NAME),
        "{verdict}"
    );
}

#[test]
fn a_stapled_answer_is_read_and_its_signature_checked() {
    let shop = Shop::new();
    let issue = || {
        shop.root.issue_with(&[NAME], |params| {
            params.serial_number = Some(vec![0x10, 0x01].into());
        })
    };
    let serve = |answer: &[u8]| {
        Site::new()
            .certificate("shop", &issue())
            .file("answer.der", answer)
            .secure("shop", "ssl_stapling on; ssl_stapling_file answer.der;")
            .start(&shop.hosts.server.ns)
    };
    let answer = shop.ocsp(&issue(), 'V');
    {
        let _web = serve(&answer);
        let probed = shop.probe(&[]);
        let stage = probed.stage("tls");
        let staple = &facts(stage)["staple"];
        assert_eq!(stage["outcome"], "ok", "{stage:#}");
        assert_eq!(staple["status"], "good", "{stage:#}");
        assert_eq!(staple["signed"], true, "{stage:#}");
        assert!(staple["next_update"].as_str().unwrap().ends_with('Z'));
    }
    // One of the root of another laboratory, of the same name.
    let other = Shop::new();
    let forged = other.ocsp(
        &other.root.issue_with(&[NAME], |params| {
            params.serial_number = Some(vec![0x10, 0x01].into());
        }),
        'V',
    );
    let _web = serve(&forged);
    let probed = shop.probe(&[]);
    assert!(
        codes(probed.stage("tls")).contains(&"staple_unusable"),
        "{:#}",
        probed.report
    );
    assert_eq!(probed.report["outcome"], "wrong", "{:#}", probed.report);
}

#[test]
fn insecure_goes_on_and_still_tells_all_that_is_wrong() {
    let shop = Shop::new();
    let _web = shop.serve(&self_signed(&["other.test"]), "");
    let probed = shop.probe(&["--insecure", "--http", "1.1"]);
    let stage = probed.stage("tls");
    assert_eq!(
        codes(stage)[..2],
        ["certificate_self_signed", "certificate_wrong_name"]
    );
    assert_eq!(facts(stage)["verified"], false);
    assert_eq!(probed.stage("http")["facts"]["http"]["status"], 200);
    assert_eq!(probed.report["outcome"], "wrong", "{:#}", probed.report);
    assert_eq!(probed.code, 3);
    let refused = shop.probe(&[]);
    refused.expect("failed", Some("tls"), Some("certificate_self_signed"));
    assert_eq!(refused.code, 1);
    let stages = refused.report["fetches"][0]["stages"].as_array().unwrap();
    assert!(
        stages.iter().all(|one| one["layer"] != "http"),
        "nobody talks to it"
    );
}

#[test]
fn the_roots_of_the_system_are_trusted_and_their_want_is_told() {
    let shop = Shop::new();
    let _web = shop.serve(&shop.root.issue(&[NAME]), "");
    let resolve = format!("{NAME}:443:{}", shop.hosts.server.v4);
    let run = |roots: &str, args: &[&str]| -> Value {
        let mut command = Command::new(workspace_binary("netmoat").unwrap());
        command
            .args(["probe", "-o", "json", &format!("https://{NAME}/")])
            .args(["--resolve", &resolve, "--http", "1.1"])
            .args(args)
            // As OpenSSL has it: in place of the distribution's.
            .env("SSL_CERT_FILE", roots)
            .env_remove("SSL_CERT_DIR");
        let output = shop.hosts.attacker.ns.run(|| command.output()).unwrap();
        assert_eq!(
            output.stderr,
            b"",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let report = run(&shop.file("system.pem", &shop.root.pem()), &[]);
    assert_eq!(report["outcome"], "ok", "{report:#}");
    let foreign = net_tests::probe::certificates::Authority::root("Foreign Root");
    let report = run(&shop.file("foreign.pem", &foreign.pem()), &[]);
    assert_eq!(report["code"], "certificate_unknown_issuer", "{report:#}");
    let none = shop.file("none.pem", "");
    let report = run(&none, &[]);
    assert_eq!(report["code"], "tls_no_roots", "{report:#}");
    assert!(report["next"].as_str().unwrap().contains("ca-certificates"));
    let report = run(&none, &["--insecure"]);
    assert_eq!(
        (&report["outcome"], &report["code"]),
        (&json!("wrong"), &json!("tls_no_roots")),
        "{report:#}"
    );
}

#[test]
fn a_file_of_roots_that_holds_none_is_refused_before_anything_is_sent() {
    let shop = Shop::new();
    let run = |path: &str| {
        let mut command = Command::new(workspace_binary("netmoat").unwrap());
        command.args([
            "probe",
            &format!("https://{}/", shop.hosts.server.v4),
            "--ca",
            path,
        ]);
        let output = shop.hosts.attacker.ns.run(|| command.output()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{path}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(run("/nowhere/ca.pem").contains("/nowhere/ca.pem"));
    let empty = shop.file("empty.pem", "no certificate\n");
    assert!(run(&empty).contains("-----BEGIN CERTIFICATE-----"));
}
