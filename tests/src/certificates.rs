//! Certificates and keys for TLS, made with GnuTLS's tools, in the layout that QEMU and libnbd look for.

use crate::command::{program, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate authority in a directory of its own.
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes one.
    #[track_caller]
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let authority = Self { dir: dir.to_owned() };
        authority.key("ca");
        let template = authority.template("ca", "cn = \"test CA\"\nca\ncert_signing_key\n");
        let key = authority.path("ca-key.pem");
        let arguments = ["--generate-self-signed", "--load-privkey", &key, "--template", &template];
        authority.certtool(&arguments, "ca-cert.pem");
        authority
    }

    /// Makes a certificate for `gateway` on this machine; gives it and its key.
    #[track_caller]
    pub fn gateway(&self) -> (PathBuf, PathBuf) {
        let names = "cn = \"gateway\"\ndns_name = \"localhost\"\nip_address = \"127.0.0.1\"\n";
        self.sign("server", &format!("{names}signing_key\nencryption_key\ntls_www_server\n"));
        (self.dir.join("server-cert.pem"), self.dir.join("server-key.pem"))
    }

    /// Makes a directory for a client: the CA's certificate, and, if it is to have one, a certificate of its own.
    #[track_caller]
    pub fn client(&self, name: &str, certified: bool) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        fs::copy(self.ca(), dir.join("ca-cert.pem")).expect("a copy");
        if certified {
            self.sign(name, &format!("cn = \"{name}\"\nsigning_key\nencryption_key\ntls_www_client\n"));
            for part in ["cert", "key"] {
                fs::copy(self.dir.join(format!("{name}-{part}.pem")), dir.join(format!("client-{part}.pem")))
                    .expect("a copy");
            }
        }
        dir
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca-cert.pem")
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// RSA: QEMU asks of a certificate what only such a key can do.
    fn key(&self, name: &str) {
        self.certtool(
            &["--generate-privkey", "--key-type", "rsa", "--bits", "2048"],
            &format!("{name}-key.pem"),
        );
    }

    fn sign(&self, name: &str, template: &str) {
        self.key(name);
        let (ca, ca_key) = (self.path("ca-cert.pem"), self.path("ca-key.pem"));
        let (key, template) = (self.path(&format!("{name}-key.pem")), self.template(name, template));
        let ca = ["--load-ca-certificate", &ca, "--load-ca-privkey", &ca_key];
        let own = ["--generate-certificate", "--load-privkey", &key, "--template", &template];
        self.certtool(&[&own[..], &ca].concat(), &format!("{name}-cert.pem"));
    }

    fn template(&self, name: &str, text: &str) -> String {
        let path = self.path(&format!("{name}.template"));
        fs::write(&path, format!("expiration_days = 2\n{text}")).expect("a template");
        path
    }

    fn certtool(&self, arguments: &[&str], outfile: &str) {
        let outfile = self.path(outfile);
        run(program("certtool", arguments).args(["--outfile", &outfile]), PATIENCE).ok();
    }
}

/// Adds a client's key to a file of keys, made if need be.
#[track_caller]
pub fn share_key(file: &Path, client: &str) {
    run(&mut program("psktool", &["-u", client, "-p", &file.display().to_string()]), PATIENCE).ok();
}
