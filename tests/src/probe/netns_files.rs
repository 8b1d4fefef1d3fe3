//! Files in `/etc/netns/NAME`, which a host's namespace has in place of those in `/etc` (ip-netns(8)).

use std::{fs, path::PathBuf};

use crate::netns::Namespace;

/// The directory of one namespace; removed when dropped.
pub struct NetnsFiles(PathBuf);

impl NetnsFiles {
    /// Writes files, each a name and its text. Panics when it cannot.
    pub fn new(ns: &Namespace, files: &[(&str, &str)]) -> Self {
        let directory = PathBuf::from("/etc/netns").join(ns.name());
        fs::create_dir_all(&directory).unwrap();
        let made = Self(directory);
        for (name, text) in files {
            fs::write(made.0.join(name), text).unwrap();
        }
        made
    }
}

impl Drop for NetnsFiles {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // Only when it is empty.
        let _ = fs::remove_dir("/etc/netns");
    }
}
