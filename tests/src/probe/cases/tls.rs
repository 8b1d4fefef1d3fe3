//! TLS: certificates that browsers refuse, handshakes that do not come to their end.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::Value;
use tempfile::TempDir;

use super::Case;
use crate::{
    probe::{
        Probed,
        certificates::{Authority, Certificate, issuer_at, self_signed, valid},
        probe,
        script::Scripted,
        web::{Site, Web},
    },
    process::Process,
    scene::{PATIENCE, listener},
    topology::Pair,
    wait,
};

/// The name of the site.
pub const NAME: &str = "shop.test";

/// A site, its client, and the authority that the client trusts.
pub struct Shop {
    /// The site's host; the other one is the client.
    pub hosts: Pair,
    /// What is trusted.
    pub root: Authority,
    directory: TempDir,
}

impl Shop {
    /// Hosts without a server.
    #[expect(clippy::new_without_default, reason = "it makes namespaces")]
    pub fn new() -> Self {
        let root = Authority::root("Laboratory Root");
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        Self {
            hosts: Pair::new().unwrap(),
            root,
            directory,
        }
    }

    /// nginx with this certificate and these directives.
    pub fn serve(&self, certificate: &Certificate, directives: &str) -> Web {
        Site::new()
            .certificate("shop", certificate)
            .secure("shop", directives)
            .start(&self.hosts.server.ns)
    }

    /// A file of the test's own.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Probes the site by its name, trusting the root; `args` may add to that.
    pub fn probe(&self, args: &[&str]) -> Probed {
        let resolve = format!("{NAME}:443:{}", self.hosts.server.v4);
        let ca = self.directory.path().join("ca.pem");
        let url = format!("https://{NAME}/");
        let own = [&url, "--resolve", &resolve, "--ca", ca.to_str().unwrap()];
        probe(&self.hosts.attacker, &[&own, args].concat())
    }

    /// What an OCSP responder of the root says of a certificate with serial number 0x1001, DER: `V`alid or `R`evoked.
    pub fn ocsp(&self, certificate: &Certificate, status: char) -> Vec<u8> {
        let revoked = if status == 'R' { "250101000000Z" } else { "" };
        let index = format!("{status}\t491231235959Z\t{revoked}\t1001\tunknown\t/CN={NAME}\n");
        let [index, root, key, leaf] = [
            ("index.txt", index.as_str()),
            ("root.pem", &self.root.pem()),
            ("root.key", &self.root.key()),
            ("leaf.pem", &certificate.alone),
        ]
        .map(|(name, content)| self.file(name, content));
        let answer = self.directory.path().join("answer.der");
        let mut command = Command::new("openssl");
        command
            .args(["ocsp", "-index", &index, "-CA", &root, "-rsigner", &root])
            .args(["-rkey", &key, "-issuer", &root, "-cert", &leaf])
            .args(["-ndays", "7", "-respout"])
            .arg(&answer);
        self.hosts.server.ns.succeed(&mut command).unwrap();
        std::fs::read(answer).unwrap()
    }

    /// A listener on port 443 of the site.
    pub fn listen(&self) -> TcpListener {
        let at = SocketAddr::new(self.hosts.server.v4.into(), 443);
        self.hosts.server.ns.run(|| listener(at, 16, false))
    }

    /// `openssl s_server` on port 443 of the site.
    pub fn openssl(&self, certificate: &Certificate, args: &[&str]) -> Process {
        let chain = self.file("openssl.pem", &certificate.chain);
        let key = self.file("openssl.key", &certificate.key);
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-accept", "443", "-naccept", "1", "-www"])
            .args(["-cert", &chain, "-key", &key])
            .args(args);
        let process = Process::start(&self.hosts.server.ns, &mut command).unwrap();
        wait::until("openssl to listen", PATIENCE, || {
            process.printed().contains("ACCEPT")
        })
        .unwrap();
        process
    }
}

/// A certificate with this done to it, served by nginx.
fn with(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Value {
    let shop = Shop::new();
    let certificate = shop.root.issue_with(&[NAME], change);
    let _web = shop.serve(&certificate, "");
    shop.probe(&[]).report
}

/// A good certificate, served by nginx with directives, probed with arguments.
fn good(directives: &str, args: &[&str]) -> Value {
    let shop = Shop::new();
    let _web = shop.serve(&shop.root.issue(&[NAME]), directives);
    shop.probe(args).report
}

/// A server of our own, for one connection.
fn own(serve: impl FnOnce(TcpStream) + Send + 'static) -> Value {
    let shop = Shop::new();
    let listener = shop.listen();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    let report = shop.probe(&["--no-checks"]).report;
    server.join().unwrap();
    report
}

fn sound() -> Value {
    good("", &["--http", "1.1"])
}

fn expired() -> Value {
    with(|params| valid(params, -90, -3))
}

fn not_yet_valid() -> Value {
    with(|params| valid(params, 2, 90))
}

fn expires_soon() -> Value {
    let shop = Shop::new();
    let certificate = shop
        .root
        .issue_with(&[NAME], |params| valid(params, -80, 10));
    let _web = shop.serve(&certificate, "");
    shop.probe(&["--http", "1.1"]).report
}

fn wrong_purpose() -> Value {
    with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
}

fn wrong_name() -> Value {
    let shop = Shop::new();
    let _web = shop.serve(&shop.root.issue(&["other.test", "*.other.test"]), "");
    shop.probe(&[]).report
}

fn unknown_issuer() -> Value {
    let shop = Shop::new();
    let foreign = Authority::root("Foreign Root").below("Foreign Authority");
    let _web = shop.serve(&foreign.issue(&[NAME]), "");
    shop.probe(&[]).report
}

fn signed_by_itself() -> Value {
    let shop = Shop::new();
    let _web = shop.serve(&self_signed(&[NAME]), "");
    shop.probe(&[]).report
}

fn missing_intermediate() -> Value {
    let shop = Shop::new();
    let below = shop.root.below("Laboratory Authority");
    let mut certificate = below.issue_with(&[NAME], |params| {
        issuer_at(params, "http://ca.test/authority.crt");
    });
    certificate.chain.clone_from(&certificate.alone);
    let _web = shop.serve(&certificate, "");
    shop.probe(&[]).report
}

fn revoked() -> Value {
    let shop = Shop::new();
    let certificate = shop.root.issue_with(&[NAME], |params| {
        params.serial_number = Some(vec![0x10, 0x01].into());
    });
    let answer = shop.ocsp(&certificate, 'R');
    let _web = Site::new()
        .certificate("shop", &certificate)
        .file("answer.der", answer)
        .secure("shop", "ssl_stapling on; ssl_stapling_file answer.der;")
        .start(&shop.hosts.server.ns);
    shop.probe(&[]).report
}

fn older_version() -> Value {
    good("ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;", &[])
}

fn no_common_cipher() -> Value {
    good("ssl_protocols TLSv1.2; ssl_ciphers AES256-SHA;", &[])
}

fn name_not_served() -> Value {
    good("ssl_reject_handshake on;", &[])
}

fn no_http2() -> Value {
    let shop = Shop::new();
    let _web = Site::new()
        .certificate("shop", &shop.root.issue(&[NAME]))
        .server("listen 443 ssl; ssl_certificate shop.pem; ssl_certificate_key shop.key;")
        .start(&shop.hosts.server.ns);
    shop.probe(&["--http", "2"]).report
}

fn plain_http() -> Value {
    let shop = Shop::new();
    let _web = Site::new()
        .server("listen 443;")
        .start(&shop.hosts.server.ns);
    shop.probe(&[]).report
}

fn client_certificate() -> Value {
    let shop = Shop::new();
    let certificate = shop.root.issue(&[NAME]);
    let _server = shop.openssl(&certificate, &["-Verify", "1"]);
    shop.probe(&["--no-checks"]).report
}

fn client_certificate_before_13() -> Value {
    let shop = Shop::new();
    let certificate = shop.root.issue(&[NAME]);
    let _server = shop.openssl(&certificate, &["-Verify", "1", "-tls1_2"]);
    shop.probe(&["--no-checks"]).report
}

fn silent() -> Value {
    let shop = Shop::new();
    // The kernel takes connections, nobody else does.
    let _listener = shop.listen();
    shop.probe(&["--timeout", "1s"]).report
}

fn closed() -> Value {
    own(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; 4096];
        // All of it, so that the end is a FIN.
        assert!(stream.read(&mut hello).unwrap() > 0);
    })
}

fn reset() -> Value {
    own(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; 64];
        stream.read_exact(&mut hello).unwrap();
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream.as_fd(), sockopt::Linger, &at_once).unwrap();
    })
}

fn weak_signature() -> Value {
    let shop = Shop::new();
    let mut certificate = shop.root.issue(&[NAME]);
    let [leaf, request, own, root, key] = [
        ("leaf.pem", ""),
        ("request.pem", ""),
        ("own.key", certificate.key.as_str()),
        ("root.pem", &shop.root.pem()),
        ("root.key", &shop.root.key()),
    ]
    .map(|(name, content)| shop.file(name, content));
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        shop.hosts.server.ns.succeed(command.args(args)).unwrap();
    };
    let names = format!("subjectAltName=DNS:{NAME}");
    let subject = format!("/CN={NAME}");
    openssl(&[
        "req", "-new", "-key", &own, "-subj", &subject, "-addext", &names, "-out", &request,
    ]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-copy_extensions",
        "copyall",
        "-sha1",
        "-CA",
        &root,
        "-CAkey",
        &key,
        "-set_serial",
        "1",
        "-out",
        &leaf,
    ]);
    certificate.chain = std::fs::read_to_string(leaf).unwrap();
    // Else OpenSSL does not load it.
    let _server = shop.openssl(&certificate, &["-cipher", "DEFAULT:@SECLEVEL=0"]);
    shop.probe(&["--no-checks"]).report
}

fn alert() -> Value {
    // Fatal, internal_error (RFC 8446 section 6).
    answered(&[0x15, 3, 3, 0, 2, 2, 80])
}

fn garbled() -> Value {
    // A ServerHello of one octet.
    answered(&[0x16, 3, 3, 0, 5, 2, 0, 0, 1, 3])
}

/// A server that says this to whatever comes.
fn answered(octets: &'static [u8]) -> Value {
    own(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; 4096];
        assert!(stream.read(&mut hello).unwrap() > 0);
        stream.write_all(octets).unwrap();
        // The client ends it.
        while stream.read(&mut hello).is_ok_and(|n| n > 0) {}
    })
}

/// Where [`relay`] looks for the server.
const BEHIND: &str = "127.0.0.1:4433";

/// Passes on from port 443 to [`BEHIND`]. What the server says is held back for `pause` once the client spoke `after` times.
fn relay(shop: &Shop, after: usize, pause: Duration) -> Scripted {
    let server = &shop.hosts.server;
    let door = server.ns.door();
    Scripted::start(&server.ns, server.at(4, 443), move |client| {
        let mut upstream = door.run(|| TcpStream::connect(BEHIND))?;
        let (mut from, mut to) = (upstream.try_clone()?, client.try_clone()?);
        let spoken = Arc::new(AtomicUsize::new(0));
        let heard = Arc::clone(&spoken);
        let back = thread::spawn(move || -> io::Result<()> {
            let mut octets = [0; 16_384];
            loop {
                let n = from.read(&mut octets)?;
                if heard.load(Ordering::Relaxed) >= after {
                    // What is tested is this.
                    thread::sleep(pause);
                }
                if n == 0 {
                    return to.shutdown(Shutdown::Both);
                }
                to.write_all(&octets[..n])?;
            }
        });
        let mut octets = [0; 16_384];
        loop {
            let n = client.read(&mut octets)?;
            if n == 0 {
                upstream.shutdown(Shutdown::Write)?;
                return back.join().unwrap();
            }
            spoken.fetch_add(1, Ordering::Relaxed);
            upstream.write_all(&octets[..n])?;
        }
    })
}

fn slow() -> Value {
    let shop = Shop::new();
    let _web = Site::new()
        .certificate("shop", &shop.root.issue(&[NAME]))
        .server(&format!(
            "listen {BEHIND} ssl; ssl_certificate shop.pem; ssl_certificate_key shop.key;"
        ))
        .start(&shop.hosts.server.ns);
    let _relay = relay(&shop, 1, Duration::from_millis(1200));
    shop.probe(&["--no-checks"]).report
}

fn client_certificate_late() -> Value {
    let shop = Shop::new();
    let certificate = shop.root.issue(&[NAME]);
    let _server = shop.openssl(&certificate, &["-Verify", "1", "-accept", BEHIND]);
    let _relay = relay(&shop, 2, Duration::from_millis(1200));
    shop.probe(&["--no-checks"]).report
}

fn one_at_a_time() -> Value {
    let shop = Shop::new();
    let certificate = shop.root.issue(&[NAME]);
    let _server = shop.openssl(&certificate, &["-naccept", "100"]);
    shop.probe(&["--http", "1.1"]).report
}

/// All of TLS.
pub fn cases() -> Vec<Case> {
    let case = |name, outcome, code: &'static str, run| Case {
        name,
        layer: Some("tls"),
        outcome,
        code: Some(code),
        run,
    };
    let failed = |name, code, run| case(name, "failed", code, run);
    vec![
        Case {
            name: "a good certificate",
            layer: None,
            outcome: "ok",
            code: None,
            run: sound,
        },
        failed("certificate expired", "certificate_expired", expired),
        failed(
            "certificate not yet valid",
            "certificate_not_yet_valid",
            not_yet_valid,
        ),
        case(
            "certificate expires in 10 days",
            "wrong",
            "certificate_expires_soon",
            expires_soon,
        ),
        failed(
            "certificate of another name",
            "certificate_wrong_name",
            wrong_name,
        ),
        failed(
            "certificate not for servers",
            "certificate_wrong_purpose",
            wrong_purpose,
        ),
        failed(
            "certificate of an unknown authority",
            "certificate_unknown_issuer",
            unknown_issuer,
        ),
        failed(
            "certificate signed by itself",
            "certificate_self_signed",
            signed_by_itself,
        ),
        failed(
            "intermediate certificate not sent",
            "certificate_chain_incomplete",
            missing_intermediate,
        ),
        failed(
            "certificate revoked, stapled",
            "certificate_revoked",
            revoked,
        ),
        failed("TLS 1.1 only", "tls_protocol_mismatch", older_version),
        failed(
            "no cipher in common",
            "tls_protocol_mismatch",
            no_common_cipher,
        ),
        failed(
            "site not served under that name",
            "tls_name_unknown",
            name_not_served,
        ),
        failed("HTTP/2 wanted, not spoken", "tls_alpn_refused", no_http2),
        failed("plain HTTP on the port", "tls_not_spoken", plain_http),
        failed(
            "client certificate wanted",
            "tls_client_certificate_required",
            client_certificate,
        ),
        failed(
            "client certificate wanted, TLS 1.2",
            "tls_client_certificate_required",
            client_certificate_before_13,
        ),
        Case {
            layer: Some("http"),
            ..failed(
                "client certificate wanted, said late",
                "client_certificate_required",
                client_certificate_late,
            )
        },
        failed(
            "certificate signed with SHA-1",
            "certificate_weak_signature",
            weak_signature,
        ),
        failed("server ends it with an alert", "tls_alert", alert),
        failed("damaged answer", "tls_garbled", garbled),
        case("handshake takes 1.2 s", "slow", "tls_slow", slow),
        case(
            "one connection at a time",
            "wrong",
            "tls_again_failed",
            one_at_a_time,
        ),
        failed("server silent", "tls_timeout", silent),
        failed("server closes in the handshake", "tls_closed", closed),
        failed("server resets in the handshake", "tls_reset", reset),
    ]
}
