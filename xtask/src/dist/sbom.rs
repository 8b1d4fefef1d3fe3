//! The list of what is in the program, as CycloneDX 1.5. cargo-auditable puts its own into the binary, for scanners
//! that find only that; this one also has the crates of the eBPF object, which is built apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::build::{Metadata, Package};
use crate::process;

/// Packages whose code ends up in the binary: the agent's, and those of the object that it embeds.
const ROOTS: [&str; 2] = ["net-user", "net-ebpf"];

pub fn write(metadata: &Metadata, file: &Path) -> Result<()> {
    let lock = process::workspace_root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
    let text = serde_json::to_string_pretty(&document(metadata, &checksums(&lock))?)?;
    fs::write(file, text + "\n").with_context(|| file.display().to_string())
}

fn document(metadata: &Metadata, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let packages = metadata.by_id();
    let edges = edges(metadata)?;
    let name = |id: &&str| purl(packages[id]);
    let components: Vec<_> = edges
        .keys()
        .map(|id| component(packages[id], checksums))
        .collect();
    let dependencies: Vec<_> = edges
        .iter()
        .map(|(id, on)| json!({"ref": name(id), "dependsOn": on.iter().map(name).collect::<Vec<_>>()}))
        .collect();
    let agent = metadata.package("net-user")?;
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "bom-ref": "netmoat",
            "name": "netmoat",
            "version": agent.version,
            "licenses": [{"expression": agent.license}],
        }},
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Each package in the program with those it depends on. Macros and build scripts run at build time only.
fn edges(metadata: &Metadata) -> Result<BTreeMap<&str, BTreeSet<&str>>> {
    let packages = metadata.by_id();
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let mut open = Vec::new();
    for root in ROOTS {
        open.push(metadata.package(root)?.id.as_str());
    }
    let mut edges = BTreeMap::new();
    while let Some(id) = open.pop() {
        if edges.contains_key(id) {
            continue;
        }
        let node = nodes
            .get(id)
            .with_context(|| format!("cargo resolves no {id}"))?;
        let ordinary = node.deps.iter().filter(|dependency| {
            dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())
                && !is_macro(packages[dependency.pkg.as_str()])
        });
        let on: BTreeSet<_> = ordinary.map(|dependency| dependency.pkg.as_str()).collect();
        open.extend(&on);
        edges.insert(id, on);
    }
    Ok(edges)
}

fn is_macro(package: &Package) -> bool {
    package
        .targets
        .iter()
        .any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
}

fn component(package: &Package, checksums: &BTreeMap<(String, String), String>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "purl": purl(package),
    });
    if let Some(license) = &package.license {
        // Before SPDX expressions, crates wrote `MIT/Apache-2.0`.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(sum) = checksums.get(&(package.name.clone(), package.version.clone())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    component
}

/// <https://github.com/package-url/purl-spec>
fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// Name and version of each package in a lock file, with the sum of the archive it came in.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let blocks = lock.split("[[package]]").skip(1);
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let sums = blocks.filter_map(|block| {
        let name = (value(block, "name = ")?, value(block, "version = ")?);
        Some((name, value(block, "checksum = ")?))
    });
    sums.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"aya\"\nversion = \"0.14.0\"\nsource = \"r\"\n\
                        checksum = \"abcd\"\n\n[[package]]\nname = \"net-user\"\nversion = \"0.1.0\"\n";

    fn metadata() -> Metadata {
        let package = |name: &str, source: Value, kind: &str| {
            json!({"id": name, "name": name, "version": if name == "aya" { "0.14.0" } else { "0.1.0" },
                   "license": "MIT/Apache-2.0", "source": source, "targets": [{"kind": [kind]}]})
        };
        let on = |pkg: &str, kind: Value| json!({"pkg": pkg, "dep_kinds": [{"kind": kind}]});
        let value = json!({
            "target_directory": "/t",
            "packages": [
                package("net-user", Value::Null, "bin"),
                package("net-ebpf", Value::Null, "bin"),
                package("aya", json!("r"), "lib"),
                package("derive", json!("r"), "proc-macro"),
                package("proptest", json!("r"), "lib"),
            ],
            "resolve": {"nodes": [
                {"id": "net-user", "deps": [on("aya", Value::Null), on("derive", Value::Null), on("proptest", json!("dev"))]},
                {"id": "net-ebpf", "deps": []},
                {"id": "aya", "deps": []},
                {"id": "derive", "deps": []},
                {"id": "proptest", "deps": []},
            ]},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_list_has_what_runs_with_its_sum_and_neither_macros_nor_tests() {
        let document = document(&metadata(), &checksums(LOCK)).unwrap();
        let components = document["components"].as_array().unwrap();
        let names: Vec<_> = components
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["aya", "net-ebpf", "net-user"]);
        assert_eq!(components[0]["hashes"][0]["content"], "abcd");
        assert_eq!(components[0]["purl"], "pkg:cargo/aya@0.14.0");
        assert_eq!(
            components[0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert!(components[2].get("hashes").is_none());
        let agent = &document["dependencies"][2];
        assert_eq!(agent["ref"], "pkg:cargo/net-user@0.1.0");
        assert_eq!(agent["dependsOn"], json!(["pkg:cargo/aya@0.14.0"]));
    }
}
