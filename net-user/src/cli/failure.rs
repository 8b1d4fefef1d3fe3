//! Exit codes, and how an error ends the program.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::client::ClientError;

/// What the program's exit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// All is well.
    Ok = 0,
    /// An error; its message says which.
    Error = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// The agent works, but not all that is configured is in force.
    Degraded = 3,
    /// A privilege or a feature of the kernel is missing.
    Permission = 4,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// An error together with the exit code it ends with. As it is an error itself, the agent can return one
/// through `anyhow` where the code matters: [`Failure::from_agent`] finds it again.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What went wrong.
    pub source: anyhow::Error,
}

impl Failure {
    /// An error with its exit code.
    pub fn new(code: Code, source: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            source: source.into(),
        }
    }

    /// From an error of the agent: a [`Failure`] anywhere in its chain gives the code, and so does a
    /// permission that the kernel denied.
    pub fn from_agent(error: anyhow::Error) -> Self {
        let code = error.chain().find_map(|cause| {
            if let Some(failure) = cause.downcast_ref::<Self>() {
                return Some(failure.code);
            }
            let denied = cause
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
            denied.then_some(Code::Permission)
        });
        Self {
            code: code.unwrap_or(Code::Error),
            source: error,
        }
    }

    /// Tells the user, and gives the exit code. A closed pipe (`netmoat counters | head`) is no error.
    pub(super) fn report(&self) -> ExitCode {
        let closed_pipe = self
            .source
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        if closed_pipe {
            return Code::Ok.into();
        }
        // Nobody is left to tell if standard error is closed too.
        let _ = writeln!(anstream::stderr(), "netmoat: {self}");
        self.code.into()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // With its causes, unless a cause's words stand in the message above it already.
        let mut shown = self.source.to_string();
        for cause in self.source.chain().skip(1).map(ToString::to_string) {
            if !shown.contains(&cause) {
                shown = format!("{shown}: {cause}");
            }
        }
        f.write_str(&shown)
    }
}

// No `source()`: Display shows the whole chain already.
impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Code::Error, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let denied = matches!(&error, ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
        Self::new(
            if denied {
                Code::Permission
            } else {
                Code::Error
            },
            error,
        )
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::Denied { .. } | ClientError::Forbidden(_) => Code::Permission,
            _ => Code::Error,
        };
        Self::new(code, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_exit_code_is_found_behind_any_context() {
        let refused = || Failure::new(Code::Permission, anyhow::anyhow!("no kfunc"));
        let error = anyhow::Error::new(refused()).context("loading the programs");
        let failure = Failure::from_agent(error);
        assert_eq!(failure.code, Code::Permission);
        assert_eq!(failure.to_string(), "loading the programs: no kfunc");

        let error =
            anyhow::Error::new(io::Error::from_raw_os_error(nix::libc::EPERM)).context("attaching");
        assert_eq!(Failure::from_agent(error).code, Code::Permission);
        assert_eq!(
            Failure::from_agent(anyhow::anyhow!("no such interface")).code,
            Code::Error
        );
    }

    #[test]
    fn no_cause_is_told_twice() {
        let inner = io::Error::other("inner");
        let failure = Failure::new(
            Code::Error,
            anyhow::Error::new(inner).context("outer: inner"),
        );
        assert_eq!(failure.to_string(), "outer: inner");
    }
}
