//! A real web server (nginx) for as long as a test needs it.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::certificates::Certificate;
use crate::{netns::Namespace, process::Process, scene::PATIENCE, wait};

/// What a web server is to serve: files in a directory of its own, and nginx's `server` blocks. Paths in these are
/// relative to that directory.
pub struct Site {
    directory: TempDir,
    http: String,
}

/// A running web server; killed when dropped.
pub struct Web {
    process: Process,
    directory: TempDir,
}

impl Site {
    /// Nothing yet but a page, `www/index.html`.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let site = Self {
            directory: TempDir::new().unwrap(),
            http: String::new(),
        };
        site.file("www/index.html", "<title>netmoat laboratory</title>\n")
    }

    /// A file.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        write(&self.directory, path, content.as_ref());
        self
    }

    /// `NAME.pem` with the chain and `NAME.key`.
    pub fn certificate(self, name: &str, certificate: &Certificate) -> Self {
        self.file(&format!("{name}.pem"), &certificate.chain)
            .file(&format!("{name}.key"), &certificate.key)
    }

    /// A `server` block with these directives; serves `www` unless they say otherwise.
    pub fn server(mut self, directives: &str) -> Self {
        self.http += &format!("server {{ {directives} }}\n");
        self
    }

    /// A `server` block for HTTPS on port 443 of every address, with HTTP/2, the certificate `NAME` and these directives.
    pub fn secure(self, name: &str, directives: &str) -> Self {
        self.server(&format!(
            "listen 443 ssl http2; listen [::]:443 ssl http2; \
             ssl_certificate {name}.pem; ssl_certificate_key {name}.key; {directives}"
        ))
    }

    /// Directives of the `http` block: `upstream`, `map`, …
    pub fn http(mut self, directives: &str) -> Self {
        self.http += directives;
        self.http += "\n";
        self
    }

    /// Starts it; it listens when this returns.
    pub fn start(self, namespace: &Namespace) -> Web {
        let Self { directory, http } = self;
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr info;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
             access_log off; default_type text/html; root www; server_names_hash_bucket_size 128;\n\
             client_body_temp_path tmp-body; proxy_temp_path tmp-proxy; fastcgi_temp_path tmp-fastcgi;\n\
             uwsgi_temp_path tmp-uwsgi; scgi_temp_path tmp-scgi;\n\
             ssl_protocols TLSv1.2 TLSv1.3;\n\
             {http}}}\n"
        );
        write(&directory, "nginx.conf", config.as_bytes());
        let mut command = Command::new("nginx");
        command
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .args(["-c", "nginx.conf"]);
        let process = Process::start(namespace, &mut command).unwrap();
        let mut web = Web { process, directory };
        // nginx binds all its ports before it writes the file (ngx_init_cycle before ngx_create_pidfile).
        let pid = web.path("nginx.pid");
        wait::until("nginx to listen", PATIENCE, || {
            let ended = web.process.ended();
            assert!(ended.is_none(), "{}", web.process.printed());
            fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'))
        })
        .unwrap();
        web
    }
}

impl Web {
    /// Where a file of the site lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// The server's process, to stop it or to read its error log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn write(directory: &TempDir, path: &str, content: &[u8]) {
    let path = directory.path().join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).unwrap();
    }
    fs::write(path, content).unwrap();
}
