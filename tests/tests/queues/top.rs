//! `netmoat top` in a real terminal: tmux draws it, and its screen is read back.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use net_tests::{
    agent::Agent,
    process::workspace_binary,
    scene::{PATIENCE, PORT, Scene},
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// What the shell in the terminal prints when it waits for a line.
const PROMPT: &str = "ready$";
/// What stands on its screen before `top` takes it.
const HERE: &str = "what was here";
/// The last line of the screen of `top`.
const KEYS: &str = " q quit  up/down j/k select  s sort: verdict  p pause  ? help";

/// A terminal with a shell in it, on a tmux server of its own that ends with it.
struct Terminal {
    directory: TempDir,
}

impl Terminal {
    fn new(columns: u16, rows: u16, locale: &str) -> Self {
        let terminal = Self {
            directory: tempfile::Builder::new()
                .prefix("netmoat-tmux-")
                .tempdir()
                .unwrap(),
        };
        let shell = format!(
            "env -i PATH='{}' TERM=screen LC_ALL={locale} PS1='{PROMPT} ' sh",
            std::env::var("PATH").unwrap()
        );
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.succeed(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            &shell,
        ]);
        terminal.until("the shell", |screen| {
            screen.iter().any(|line| line == PROMPT)
        });
        terminal
    }

    /// `tmux ARGS` on the server of this terminal alone.
    fn tmux(&self, args: &[&str]) -> Output {
        Command::new("tmux")
            .args(["-u", "-L", "top"])
            .args(args)
            .env("TMUX_TMPDIR", self.directory.path())
            .env_remove("TMUX")
            .output()
            .unwrap()
    }

    fn succeed(&self, args: &[&str]) -> String {
        let output = self.tmux(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Presses keys, by the names that tmux has for them.
    fn press(&self, keys: &[&str]) {
        self.succeed(&[&["send-keys"], keys].concat());
    }

    /// Types a line for the shell.
    fn enter(&self, line: &str) {
        self.succeed(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.succeed(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// The lines on the screen, without spaces at their ends.
    fn screen(&self) -> Vec<String> {
        let text = self.succeed(&["capture-pane", "-p"]);
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Waits for a screen, and gives it.
    fn until(&self, what: &str, is: impl Fn(&[String]) -> bool) -> Vec<String> {
        let found = wait::until_some(what, PATIENCE, || Some(self.screen()).filter(|s| is(s)));
        found
            .unwrap_or_else(|error| panic!("{error}; on the screen:\n{}", self.screen().join("\n")))
    }

    /// Starts `top` beneath a line that must be there again afterwards.
    fn start_top(&self, agent: &Agent) {
        let binary = workspace_binary("netmoat").unwrap();
        self.enter(&format!("echo {HERE}"));
        self.until("what the shell prints", |screen| {
            screen.iter().any(|line| line == HERE)
        });
        self.enter(&format!(
            "{} --socket {} top --interval 200ms",
            binary.display(),
            agent.socket().display()
        ));
        self.until("the screen of top", |screen| {
            screen.last().is_some_and(|line| line == KEYS)
        });
    }

    /// The process that the shell has started.
    fn foreground(&self) -> Pid {
        let shell = self.succeed(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = Path::new("/proc").join(format!("{shell}/task/{shell}/children"));
        let children = fs::read_to_string(children).unwrap();
        Pid::from_raw(children.trim().parse().unwrap())
    }

    /// The shell's screen is back as it was, and its terminal echoes and edits lines again.
    fn assert_restored(&self, code: i32) {
        let screen = self.until("the shell's screen", |screen| {
            let last = screen.iter().rfind(|line| !line.is_empty());
            screen.iter().any(|line| line == HERE) && last.is_some_and(|line| line == PROMPT)
        });
        assert!(!screen.iter().any(|line| line == KEYS), "{screen:#?}");
        self.enter("echo code $? cooked $(stty -a | grep -c '^isig icanon iexten echo ')");
        let said = format!("code {code} cooked 1");
        self.until(&said, |screen| screen.contains(&said));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// The line of a listener, its address to the screen's.
fn line<'a>(screen: &'a [String], name: &str) -> &'a str {
    let line = screen.iter().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("{name} in {screen:#?}"))
}

#[test]
fn top_shows_every_listener_follows_keys_and_sizes_and_gives_the_screen_back() {
    let scene = Scene::new();
    let _listeners = [4, 6].map(|family| scene.listen(family));
    let mut agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let names = [4, 6].map(|family| scene.server.at(family, PORT).to_string());

    let terminal = Terminal::new(80, 24, "C.UTF-8");
    terminal.start_top(&agent);
    let screen = terminal.screen();
    assert_eq!(screen.len(), 24, "{screen:#?}");
    let host = nix::sys::utsname::uname().unwrap();
    let title = format!("netmoat {}  enforce  ok", host.nodename().display());
    assert!(screen[0].starts_with(&title), "{screen:#?}");
    assert!(screen[0].contains("2 listeners"), "{screen:#?}");
    assert!(screen[1].starts_with("LISTENER  ") && screen[1].ends_with("VERDICT"));
    for listener in &agent.queues().unwrap().listeners {
        let verdict = listener.verdicts.first();
        let verdict = verdict.map_or("-", |verdict| verdict.kind.name());
        let name = if listener.family == 4 {
            &names[0]
        } else {
            &names[1]
        };
        let line = line(&screen, name);
        assert!(line.ends_with(verdict), "{line}: {verdict}");
        assert!(line.contains("0/1024"), "{line}");
    }

    let chosen = |screen: &[String], name: &str| {
        let title = format!("── {name}");
        screen.iter().any(|line| line.starts_with(&title))
    };
    let (first, second) = if chosen(&screen, &names[0]) {
        (&names[0], &names[1])
    } else {
        (&names[1], &names[0])
    };
    terminal.press(&["Down"]);
    terminal.until("the second listener", |screen| chosen(screen, second));
    terminal.press(&["k"]);
    terminal.until("the first listener", |screen| chosen(screen, first));
    terminal.press(&["s"]);
    terminal.until("another order", |screen| {
        screen[23].contains("s sort: connections/s")
    });
    terminal.press(&["s", "s", "s", "s"]);
    terminal.until("the first order", |screen| screen[23] == KEYS);
    terminal.press(&["?"]);
    let helped = |screen: &[String]| screen.iter().any(|l| l.contains("Any key closes this."));
    terminal.until("the help", helped);
    terminal.press(&["Escape"]);
    terminal.until("no help", |screen| !helped(screen));
    terminal.press(&["p"]);
    terminal.until("the pause", |screen| screen[0].contains("PAUSED"));
    terminal.press(&["p"]);
    terminal.until("no pause", |screen| !screen[0].contains("PAUSED"));

    terminal.resize(132, 40);
    let screen = terminal.until("the larger screen", |screen| {
        screen.len() == 40 && screen[39] == KEYS && screen[1].contains("COOKIES")
    });
    line(&screen, &names[0]);
    terminal.resize(80, 24);
    let screen = terminal.until("the smaller screen", |screen| {
        screen.len() == 24
            && screen[23] == KEYS
            && screen[1].starts_with("LISTENER ")
            && !screen[1].contains("COOKIES")
    });
    line(&screen, &names[1]);

    assert!(agent.terminate().unwrap().success());
    let screen = terminal.until("the agent's end", |screen| {
        screen[1].starts_with("No answer, trying on: cannot reach the agent")
    });
    line(&screen, &names[0]);
    terminal.press(&["q"]);
    terminal.assert_restored(0);
}

#[test]
fn signals_and_ctrl_c_give_the_screen_back_too_and_a_terminal_without_utf_8_sees_ascii() {
    let scene = Scene::new();
    let _listener = scene.listen(4);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    // None: Ctrl-C.
    for signal in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        let terminal = Terminal::new(80, 24, "C");
        terminal.start_top(&agent);
        let screen = terminal.screen();
        assert!(screen.iter().all(|line| line.is_ascii()), "{screen:#?}");
        match signal {
            Some(signal) => kill(terminal.foreground(), signal).unwrap(),
            None => terminal.press(&["C-c"]),
        }
        terminal.assert_restored(0);
    }
}
