//! `netmoat completions`

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Code, Failure};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat completions bash > /usr/share/bash-completion/completions/netmoat
  netmoat completions zsh > /usr/local/share/zsh/site-functions/_netmoat
  netmoat completions fish > /etc/fish/completions/netmoat.fish

The packages install those of bash, zsh and fish.";

pub(super) fn completions(shell: Shell) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "netmoat", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Code::Ok)
}
