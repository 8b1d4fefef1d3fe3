//! `netmoat config`

use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use schemars::generate::SchemaSettings;
use serde_json::json;

use super::output::{Format, Output};
use super::{Code, Failure, Global, block_on};
use crate::config::raw::RawConfig;
use crate::config::{Config, Overrides, show};
use crate::control::changes::ConfigShown;
use crate::control::protocol::VERSION;

/// What is installed as the config.
const DEFAULT: &str = include_str!("../../../contrib/netmoat.toml");

const SHOW_EXAMPLES: &str = "\
Examples:
  netmoat config show                what the running agent works by
  netmoat config show -c new.toml    what a file comes to, with new.d beside it

What is shown is a config itself. Entries of list files are not shown.";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  netmoat config schema > netmoat.schema.json";

const DEFAULT_EXAMPLES: &str = "\
Examples:
  netmoat config default > /etc/netmoat/netmoat.toml";

/// The subcommands of `netmoat config`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every key with its value, as in force or as a file says
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The config file, in place of what the running agent works by
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// The JSON Schema of the config, for editors and checks
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
    /// A config with every key commented out, its default, and the reasons for it
    #[command(after_help = DEFAULT_EXAMPLES)]
    Default,
}

pub(super) fn run(global: &Global, out: &Output, command: Command) -> Result<Code, Failure> {
    match command {
        Command::Show { config: None } => {
            let shown = block_on(global.client().config())?;
            out.print(&shown, human)?;
        }
        Command::Show { config } => {
            let overrides = Overrides {
                socket: global.socket.clone(),
                instance: global.instance.clone(),
                ..Overrides::default()
            };
            let config = Config::load(config.as_deref(), &overrides)?;
            let shown = ConfigShown {
                version: VERSION,
                source: config.source.clone(),
                drop_ins: config.drop_ins.clone(),
                mode_in_file: None,
                config: show::tree(&config),
                toml: show::toml(&config).map_err(|error| Failure::new(Code::Error, error))?,
            };
            out.print(&shown, human)?;
        }
        // Neither is a table for people, in whatever format.
        Command::Schema => print(
            &(serde_json::to_string_pretty(&schema())
                .map_err(|error| Failure::new(Code::Error, error))?
                + "\n"),
        )?,
        Command::Default if out.is(Format::Json) => {
            out.print(&json!({ "version": VERSION, "toml": DEFAULT }), |_| {
                String::new()
            })?;
        }
        Command::Default => print(DEFAULT)?,
    }
    Ok(Code::Ok)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Keys that are left out are as good as null, which TOML has not.
fn schema() -> schemars::Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = Some("https://json-schema.org/draft/2020-12/schema".into());
    });
    settings
        .into_generator()
        .into_root_schema_for::<RawConfig>()
}

fn human(shown: &ConfigShown) -> String {
    let mut text = String::new();
    let files = shown.source.iter().chain(&shown.drop_ins);
    for file in files {
        text += &format!("# from {}\n", file.display());
    }
    if let Some(mode) = shown.mode_in_file {
        text += &format!(
            "# the file says mode = \"{}\"; `netmoat mode` has set another\n",
            mode.name()
        );
    }
    text + &shown.toml
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// The keys of an object in the schema, and of the objects in it.
    fn keys(schema: &Value, object: &Value, prefix: &str, into: &mut BTreeSet<String>) {
        let object = match object.get("$ref").and_then(Value::as_str) {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => object,
        };
        let parts = ["anyOf", "allOf"]
            .iter()
            .filter_map(|of| object.get(*of)?.as_array());
        for part in parts.flatten() {
            keys(schema, part, prefix, into);
        }
        if let Some(items) = object.get("items") {
            keys(schema, items, prefix, into);
        }
        for (key, value) in object
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let key = format!("{prefix}{key}");
            keys(schema, value, &format!("{key}."), into);
            into.insert(key);
        }
    }

    /// The keys of a TOML value, likewise.
    fn written(value: &toml::Value, prefix: &str, into: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = format!("{prefix}{key}");
                    written(value, &format!("{key}."), into);
                    into.insert(key);
                }
            }
            toml::Value::Array(values) => values.iter().for_each(|v| written(v, prefix, into)),
            _ => {}
        }
    }

    #[test]
    fn the_default_config_shows_every_key_of_the_schema_and_no_other() {
        let schema = serde_json::to_value(schema()).unwrap();
        let mut known = BTreeSet::new();
        keys(&schema, &schema, "", &mut known);
        let all: String = DEFAULT
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("#= ").unwrap_or(line)))
            .collect();
        let mut shown = BTreeSet::new();
        written(&all.parse::<toml::Table>().unwrap().into(), "", &mut shown);
        assert!(known.len() > 100, "{known:?}");
        assert_eq!(known, shown);
    }

    #[test]
    fn the_schema_tells_what_values_may_be() {
        let schema = serde_json::to_value(schema()).unwrap();
        let text = schema.to_string();
        for part in ["unevaluatedProperties", "additionalProperties"] {
            if text.contains(part) {
                assert_eq!(schema["additionalProperties"], false);
            }
        }
        assert!(
            text.contains("\"enforce\"") && text.contains("src-mac"),
            "{text}"
        );
        assert!(text.contains("[smh]"), "rates have a pattern");
        let described = schema["properties"]["interfaces"]["description"]
            .as_str()
            .unwrap();
        assert!(described.contains("attach"), "{described}");
    }
}
