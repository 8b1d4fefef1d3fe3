//! Candidates for the lists, measured before one was chosen.

use std::{collections::HashSet, os::fd::AsFd, process::ExitCode, sync::atomic::Ordering::Relaxed, time::{Duration, Instant}};

use anyhow::{Context as _, Result};
use aya::{EbpfLoader, maps::{Array, HashMap, LpmTrie, Map, lpm_trie::Key}, programs::{Xdp, XdpMode}};
use net_user::lists::memory::Words;

use super::cost::timed;
use crate::{lab::{SourceGenerator, Sources, source_address}, topology::Pair};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/candidates"));

/// Options.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [10, 10_000, 1_000_000])]
    entries: Vec<u32>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

const MIXED: [u8; 16] = [32, 24, 32, 28, 32, 24, 32, 20, 32, 24, 32, 30, 32, 22, 26, 16];

fn entry(i: u32, mixed: bool) -> (u32, u8) {
    let std::net::IpAddr::V4(a) = source_address(i, false) else { unreachable!() };
    let len = if mixed { MIXED[(i % 16) as usize] } else { 32 };
    (a.to_bits() & (u32::MAX << (32 - len)), len)
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if args.only.is_empty() || args.only.iter().any(|o| o == "peer") {
    for features in ["ipv4", "all"] { for n in [10, 9_999] {
        let pair = Pair::new()?;
        let addrs = (0..n).map(|i| match source_address(i, false) { std::net::IpAddr::V4(a) => a, _ => unreachable!() });
        let filter = super::filter::Filter::new(&pair.server, features, addrs)?;
        let (hit, miss) = costs(args, &pair, filter.program, n)?;
        println!("{n:8} single xdp-filter {features} hit {hit:6.1} miss {miss:6.1}");
    } }
    }
    for &n in &args.entries {
        for mixed in [false, true] {
            let entries: HashSet<_> = (0..n).map(|i| entry(i, mixed)).collect();
            for name in ["c_v16", "c_k16", "c_v05", "c_k05", "c_v1", "c_k1", "c_v2", "c_k2", "c_v4", "c_k4", "c_none", "c_lpm", "c_khash", "c_dir24", "c_bits", "c_word", "c_bits_hits", "c_word_hits"] {
                if mixed && name == "c_khash" || !args.only.is_empty() && !args.only.iter().any(|o| o == name) { continue; }
                let (hit, miss) = one(args, name, n, &entries)?;
                println!("{n:8} {} {name:12} hit {hit:6.1} miss {miss:6.1}", if mixed { "mixed " } else { "single" });
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn one(args: &Args, name: &str, n: u32, entries: &HashSet<(u32, u8)>) -> Result<(f64, f64)> {
    let pair = Pair::new()?;
    let blocks: HashSet<u32> = entries.iter().filter(|e| e.1 > 24).map(|e| e.0 >> 8).collect();
    let dir = name == "c_dir24";
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("BLOCKS", if dir { blocks.len() as u32 + 1 } else { 1 })
        .load(OBJECT)?;
    let start = Instant::now();
    let words = |ebpf: &aya::Ebpf, map: &str, len| -> Result<Words> {
        let Some(Map::Array(data)) = ebpf.map(map) else { anyhow::bail!("{map}") };
        Ok(Words::map(data.fd().as_fd(), len)?)
    };
    match name {
        "c_lpm" => {
            let mut map: LpmTrie<_, u32, u64> = ebpf.map_mut("LPM").context("LPM")?.try_into()?;
            for &(a, len) in entries { map.insert(&Key::new(len.into(), a.to_be()), 1, 0)?; }
        }
        "c_khash" => {
            let mut map: HashMap<_, u32, u64> = ebpf.map_mut("KHASH").context("KHASH")?.try_into()?;
            for &(a, _) in entries { map.insert(a, 1, 0)?; }
        }
        "c_dir24" => {
            let first = words(&ebpf, "DIR24", 1 << 23)?;
            let second = words(&ebpf, "BLOCKS", (blocks.len() + 1) * 128)?;
            let put = |w: &Words, i: usize, v: u32| {
                let old = w[i / 2].load(Relaxed);
                let s = i % 2 * 32;
                w[i / 2].store(old & !(0xffff_ffff << s) | u64::from(v) << s, Relaxed);
            };
            let mut sorted: Vec<_> = entries.iter().copied().collect();
            sorted.sort_by_key(|e| e.1);
            let mut next = 0;
            for (a, len) in sorted {
                let at = (a >> 8) as usize;
                if len <= 24 { for i in 0..1usize << (24 - len) { put(&first, at + i, 5); } continue; }
                let v = (first[at / 2].load(Relaxed) >> (at % 2 * 32)) as u32;
                let block = if v >> 31 == 1 { v & 0x7fff_ffff } else {
                    next += 1;
                    put(&first, at, 1 << 31 | next);
                    if v != 0 { for i in 0..256 { put(&second, next as usize * 256 + i, v); } }
                    next
                };
                for i in 0..1usize << (32 - len) { put(&second, block as usize * 256 + (a & 255) as usize + i, 6); }
            }
        }
        "c_none" => {}
        n if n.starts_with("c_k") && n != "c_khash" => {
            let mut outer: aya::maps::ArrayOfMaps<_, Array<aya::maps::MapData, [u64; 8]>> = ebpf.map_mut("PIECES").context("PIECES")?.try_into()?;
            for i in 0..512 {
                let inner: Array<_, [u64; 8]> = Array::create(496, 0)?;
                outer.set(i, &inner, 0)?;
            }
        }
        n if n.starts_with("c_v") => {}
        _ => {
            let bits = words(&ebpf, "BITS24", 1 << 18)?;
            let mask = words(&ebpf, "MASK20", 1 << 19)?;
            let word = words(&ebpf, "WORD20", 1 << 20)?;
            let table = words(&ebpf, "TABLE", 1 << 21)?;
            let mut lost = 0;
            for &(a, len) in entries {
                for at in a >> 8..=a >> 8 | (0xff_ffff >> len.min(24)) {
                    bits[at as usize / 64].fetch_or(1 << (at % 64), Relaxed);
                    word[at as usize / 16].fetch_or(1 << (32 + at % 16), Relaxed);
                }
                for at in a >> 12..=a >> 12 | (0xf_ffff >> len.min(20)) {
                    mask[at as usize / 2].fetch_or(1 << (u32::from(len) - 1 + at % 2 * 32), Relaxed);
                    word[at as usize].fetch_or(1 << (len - 1), Relaxed);
                }
                let key = u64::from(a) << 6 | u64::from(len);
                let bucket = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46) as usize;
                match (0..8).find(|i| table[bucket * 8 + i].load(Relaxed) == 0) {
                    Some(i) => table[bucket * 8 + i].store(key << 26, Relaxed),
                    None => lost += 1,
                }
            }
            if lost > 0 { eprintln!("{lost} of {} without a place", entries.len()); }
        }
    }
    if n >= 1_000_000 { eprintln!("{name}: {} entries written in {:.0?}", entries.len(), start.elapsed()); }
    let program: &mut Xdp = ebpf.program_mut(name).context("program")?.try_into()?;
    program.load()?;
    pair.server.ns.run(|| program.attach_to_if_index(pair.server.link.ifindex, XdpMode::Driver))?;
    let id = program.info()?.id();
    costs(args, &pair, id, n)
}

fn costs(args: &Args, pair: &Pair, id: u32, n: u32) -> Result<(f64, f64)> {
    let mut generator = SourceGenerator::new(&pair.attacker, args.cpu)?;
    let mut frame = [0; 96];
    frame[..6].copy_from_slice(&pair.server.link.mac);
    frame[6] = 2;
    frame[12] = 8;
    frame[14] = 0x45;
    let mut best = |first, count| -> Result<f64> {
        let mut best = f64::MAX;
        for _ in 0..args.rounds {
            let sources = Sources { frame, ipv6: false, first, count };
            let (ns, _) = timed(id, Duration::from_millis(600), |t| generator.run(&sources, t).map(drop))?;
            best = best.min(ns);
        }
        Ok(best)
    };
    Ok((best(0, n)?, best(n, 1_000_000)?))
}
#[allow(unused)]
fn unused(_: Array<aya::maps::MapData, u32>) {}
