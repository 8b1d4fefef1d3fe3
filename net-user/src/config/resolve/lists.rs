//! `[lists]`.

use std::path::PathBuf;

use super::super::lists::{ListPolicy, read_file};
use super::super::raw::{RawLists, Spanned, Text};
use super::Reader;
use crate::lists::text::{self, Entry};

impl Reader<'_> {
    pub(super) fn lists(&mut self, raw: &RawLists) -> ListPolicy {
        let mut policy = ListPolicy {
            allow: self.list_entries(&raw.allow),
            block: self.list_entries(&raw.block),
            ..ListPolicy::default()
        };
        policy.written = [policy.allow.len(), policy.block.len()];
        self.list_files(&raw.allow_files, &mut policy.allow, &mut policy.files);
        policy.allow_files = policy.files.len();
        self.list_files(&raw.block_files, &mut policy.block, &mut policy.files);
        policy
    }

    fn list_files(
        &mut self,
        raw: &[Spanned<Text>],
        entries: &mut Vec<Entry>,
        files: &mut Vec<PathBuf>,
    ) {
        for file in raw {
            let path = PathBuf::from(&file.get_ref().0);
            if let Some(read) = self.list_file(file, &path) {
                entries.extend(read);
                files.push(path);
            }
        }
    }

    fn list_entries(&mut self, raw: &[Spanned<Text>]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for raw in raw {
            let text = raw.get_ref().0.trim();
            let fault = match text::entry(text, None) {
                Ok(Some(entry)) if entry.ttl.is_none() => {
                    entries.push(entry);
                    continue;
                }
                Ok(_) => (
                    "an entry of the config has no time to live".to_owned(),
                    "leave it out, or add the entry with `netmoat block add ADDRESS --for TTL`",
                ),
                Err(what) => (
                    what,
                    "write \"address[/len] [reason]\", as in \"192.0.2.0/24 port scans\"",
                ),
            };
            self.complain(raw.span(), fault);
        }
        entries
    }

    fn list_file(&mut self, raw: &Spanned<Text>, path: &std::path::Path) -> Option<Vec<Entry>> {
        if !path.is_absolute() {
            let fault = format!("`{}` is no absolute path", raw.get_ref().0.escape_debug());
            self.complain(raw.span(), (fault, "begin it with `/`"));
            return None;
        }
        read_file(path)
            .map_err(|(what, remedy)| self.problem(Some(raw.span()), what, remedy))
            .ok()
    }
}
