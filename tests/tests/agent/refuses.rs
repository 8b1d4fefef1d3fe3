//! What keeps the agent from starting: each is refused before anything is attached, with the remedy.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use net_tests::{
    agent::Agent,
    lab::Pass,
    netns::Namespace,
    process::workspace_binary,
    topology::{Host, Pair},
};
use net_user::host::links::Links;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const KFUNC: &[u8] = b"\0bpf_sk_assign_tcp_reqsk\0";

/// Id of the XDP program on the host's interface.
fn xdp_program(host: &Host) -> Option<u32> {
    host.ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let links = Links::open().unwrap().links().await.unwrap();
            links
                .iter()
                .find(|l| l.name == host.link.name)
                .unwrap()
                .xdp
                .map(|xdp| xdp.id)
        })
    })
}

/// The agent must end with `code`, say all of `words`, and leave the interface as it was.
fn refused(host: &Host, interfaces: &[&str], config: &str, code: i32, words: &[&str]) {
    let before = xdp_program(host);
    let agent = Agent::launch(&host.ns, interfaces, config).unwrap();
    let socket = agent.socket();
    let (exit, log) = agent.refusal().unwrap();
    for word in words {
        assert!(log.contains(word), "no {word:?} in:\n{log}");
    }
    assert_eq!(exit, code, "{log}");
    assert_eq!(xdp_program(host), before);
    assert!(!socket.exists());
}

/// The refusal is of this condition and of nothing else.
fn runs(host: &Host) {
    let mut agent = Agent::start(host, "").unwrap();
    assert!(agent.terminate().unwrap().success());
    assert_eq!(xdp_program(host), None);
}

#[test]
fn an_interface_that_is_not_there_is_refused_with_those_that_are() {
    let pair = Pair::new().unwrap();
    refused(
        &pair.server,
        &["eth7"],
        "",
        1,
        &["eth7: no such interface", "eth0"],
    );
    refused(
        &pair.server,
        &["eth0", "eth7"],
        "",
        1,
        &["eth7: no such interface"],
    );
    refused(
        &pair.server,
        &["lo"],
        "",
        1,
        &["lo carries this host's own traffic"],
    );
    runs(&pair.server);
}

#[test]
fn c_20_conntrack_that_must_see_the_syn_is_refused() {
    let pair = Pair::new().unwrap();
    let loose = "net.netfilter.nf_conntrack_tcp_loose";
    pair.server.ns.sysctl(loose, "0").unwrap();
    refused(
        &pair.server,
        &["eth0"],
        "",
        1,
        &["nf_conntrack_tcp_loose", "=1"],
    );
    pair.server.ns.sysctl(loose, "1").unwrap();
    runs(&pair.server);

    pair.server
        .ns
        .nft(
            "table inet fw { chain input { type filter hook input priority 0;\n\
             tcp flags & (fin|syn|rst|ack) != syn ct state new drop\n }\n }",
        )
        .unwrap();
    let _listener = pair
        .server
        .ns
        .run(|| std::net::TcpListener::bind(pair.server.at(4, 8080)))
        .unwrap();
    refused(&pair.server, &["eth0"], "", 1, &["inet fw input"]);
    pair.server.ns.nft("delete table inet fw").unwrap();
    runs(&pair.server);
}

#[test]
fn tcp_syncookies_0_is_refused() {
    let pair = Pair::new().unwrap();
    pair.server
        .ns
        .sysctl("net.ipv4.tcp_syncookies", "0")
        .unwrap();
    refused(
        &pair.server,
        &["eth0"],
        "",
        1,
        &["net.ipv4.tcp_syncookies", "=1"],
    );
    pair.server
        .ns
        .sysctl("net.ipv4.tcp_syncookies", "1")
        .unwrap();
    runs(&pair.server);
}

#[test]
fn c_53_a_foreign_xdp_program_is_refused_by_name_and_stays() {
    let pair = Pair::new().unwrap();
    let mut pass = Pass::load().unwrap();
    pass.attach(&pair.server.ns, &pair.server.link).unwrap();
    let id = xdp_program(&pair.server).unwrap();
    refused(
        &pair.server,
        &["eth0"],
        "",
        1,
        &["lab_pass", &id.to_string(), "xdp"],
    );
    drop(pass);
    runs(&pair.server);
}

#[test]
fn c_53_a_program_of_xdp_tools_is_refused_by_name_and_stays() {
    let pair = Pair::new().unwrap();
    let xdp = |program: &str, words: &[&str]| {
        let done = pair.server.ns.succeed(Command::new(program).args(words));
        done.unwrap_or_else(|error| panic!("{program}: {error:#}"))
    };
    // Under libxdp's dispatcher, or without where the kernel does not take it.
    xdp("xdp-filter", &["load", "eth0"]);
    let id = xdp_program(&pair.server).unwrap();
    refused(
        &pair.server,
        &["eth0"],
        "",
        1,
        &["xdpfilt_", &format!("id {id}")],
    );
    assert_eq!(xdp_program(&pair.server), Some(id));
    xdp("xdp-loader", &["unload", "eth0", "--all"]);
    runs(&pair.server);
}

#[test]
fn a_second_agent_on_the_interface_or_the_socket_is_refused() {
    let pair = Pair::new().unwrap();
    let first = Agent::start(&pair.server, "").unwrap();
    refused(&pair.server, &["eth0"], "", 1, &["netmoat", "already"]);

    // A config may be looked at beside it.
    let binary = workspace_binary("netmoat").unwrap();
    let look = || Command::new(&binary).args(["check", "-i", "eth0"]).output();
    let output = pair.server.ns.run(look).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("note: netmoat runs on eth0 now"), "{text}");

    // The same socket, from a namespace where no interface is in the way.
    let other = Pair::new().unwrap();
    let binary = workspace_binary("netmoat").unwrap();
    let output = other
        .server
        .ns
        .run(|| {
            Command::new(binary)
                .arg("--socket")
                .arg(first.socket())
                .args(["run", "-i", "eth0"])
                .output()
        })
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("already running"), "{log}");
    assert_eq!(xdp_program(&other.server), None);
    assert!(first.status().is_ok(), "the first goes on");
}

#[test]
fn config_errors_are_told_with_line_and_column() {
    let pair = Pair::new().unwrap();
    // `launch` puts four lines before it.
    refused(
        &pair.server,
        &["eth0"],
        "[syn]\nmoed = \"auto\"",
        1,
        &["unknown key `moed`", ":6:1", "did you mean `mode`"],
    );
    refused(
        &pair.server,
        &["eth0"],
        "[syn]\nbudget = \"fast\"",
        1,
        &[":6:10", "budget", "^"],
    );
    refused(
        &pair.server,
        &["eth0"],
        "[[listener]]\nport = 70000",
        1,
        &[":6:8", "70000"],
    );
}

#[test]
fn a_mistyped_flag_is_a_usage_error() {
    let binary = workspace_binary("netmoat").unwrap();
    let output = Command::new(binary)
        .args(["run", "--interfaces", "eth0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--interface"),
        "it names the right one"
    );
}

#[test]
fn an_unprivileged_user_is_told_what_is_missing_and_may_not_use_the_socket() {
    let pair = Pair::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("netmoat");
    fs::copy(workspace_binary("netmoat").unwrap(), &binary).unwrap();
    let nobody = |args: &[&str]| {
        let output = pair
            .server
            .ns
            .run(|| {
                Command::new("setpriv")
                    .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                    .arg(&binary)
                    .args(args)
                    .output()
            })
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, log) = nobody(&["run", "-i", "eth0"]);
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("CAP_BPF") && log.contains("sudo"), "{log}");
    assert_eq!(xdp_program(&pair.server), None);

    // C-52
    let agent = Agent::start(&pair.server, "").unwrap();
    let socket = agent.socket();
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let (code, log) = nobody(&["--socket", socket.to_str().unwrap(), "status"]);
    assert_eq!(code, Some(4), "{log}");
}

/// Runs the agent where `file` stands in the place of the kernel's BTF.
fn with_btf(namespace: &Namespace, file: &str) -> (Option<i32>, String) {
    let script = format!("mount --bind '{file}' {BTF} && exec \"$@\"");
    let socket = tempfile::tempdir().unwrap();
    let output = namespace
        .run(|| {
            Command::new("unshare")
                .args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    &script,
                    "sh",
                ])
                .arg(workspace_binary("netmoat").unwrap())
                .arg("--socket")
                .arg(socket.path().join("s"))
                .args(["run", "-i", "eth0"])
                .output()
        })
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_kernel_without_btf_or_without_the_kfunc_is_refused() {
    let pair = Pair::new().unwrap();
    let (code, log) = with_btf(&pair.server.ns, "/dev/null");
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("BTF"), "{log}");

    let mut btf = fs::read(BTF).unwrap();
    let at = btf.windows(KFUNC.len()).position(|w| w == KFUNC).unwrap();
    btf[at + 1] = b'x';
    let without = tempfile::NamedTempFile::new().unwrap();
    fs::write(without.path(), btf).unwrap();
    let (code, log) = with_btf(&pair.server.ns, without.path().to_str().unwrap());
    assert_eq!(code, Some(4), "{log}");
    assert!(
        log.contains("bpf_sk_assign_tcp_reqsk") && log.contains("6.9"),
        "{log}"
    );
    assert_eq!(xdp_program(&pair.server), None);
}

#[test]
fn a_driver_without_native_xdp_falls_back_with_a_warning_unless_native_is_demanded() {
    let pair = Pair::new().unwrap();
    pair.server
        .ns
        .ip("link add br0 type bridge\nlink set br0 up")
        .unwrap();
    let agent = Agent::start_on(&pair.server.ns, &["br0"], "").unwrap();
    let status = agent.status().unwrap();
    assert_eq!(
        status.interfaces[0].xdp_mode,
        net_user::config::XdpMode::Generic
    );
    assert!(agent.log().contains("generic mode"), "{}", agent.log());
    drop(agent);
    refused(
        &pair.server,
        &["br0"],
        "xdp_mode = \"native\"",
        1,
        &["br0", "native", "generic"],
    );
    // Of several interfaces, one that fails takes the others' programs off again.
    refused(
        &pair.server,
        &["eth0", "br0"],
        "xdp_mode = \"native\"",
        1,
        &["br0"],
    );
}
