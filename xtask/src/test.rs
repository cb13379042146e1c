//! `cargo xtask test`: runs the tests of the workspace. Those of package `sched_exporter-tests` run
//! the exporter on this machine's kernel, as root. Tests that cannot run here are counted and named.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    arch::Arch,
    image,
    needs::{NEEDS, Need, ROOT},
    shipped::{build_suite, build_tests, doctests},
    suites::suites,
    tally::{Tally, closing_line},
    workspace::{Executable, output, root, root_command},
};

/// The arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose path contains this, such as `config::tests`, and build only what they
    /// need
    name: Option<String>,
}

/// Tests that run only if they are named: one runtime is enough to see that names arrive.
const ON_DEMAND: [&str; 2] = ["runtimes::docker::", "runtimes::units::"];

/// Runs all tests, or those whose path contains a name.
pub(crate) fn test(args: &Args) -> Result<ExitCode> {
    let arch = Arch::host()?;
    let name = args.name.as_deref();
    let built = match name {
        None => build_tests(arch)?,
        Some(name) => build_suites_with(arch, name)?,
    };
    run(built, name, &[])
}

/// Runs the tests of these programs whose path contains a name. `given` has paths by the variables of needs, which are
/// not looked for.
pub(crate) fn run(
    built: Vec<Executable>,
    name: Option<&str>,
    given: &[(&'static str, PathBuf)],
) -> Result<ExitCode> {
    let skip = if name.is_none() { &ON_DEMAND[..] } else { &[] };
    let skip: Vec<_> = skip.iter().map(|module| format!("--skip={module}")).collect();
    let mut selected = Vec::new();
    for harness in built.into_iter().filter(|built| built.test) {
        let tests = list(&harness, name, &skip)?;
        if !tests.is_empty() {
            selected.push((harness, tests));
        }
    }
    if let (Some(name), []) = (name, selected.as_slice()) {
        bail!("no test's path contains `{name}`");
    }
    let whole = selected.iter().filter(|(harness, _)| runs_exporter(harness));
    let machine = Machine::find(whole.flat_map(|(_, tests)| tests), given);
    let mut tally = Tally::default();
    for (harness, _) in &selected {
        let mut command =
            if runs_exporter(harness) { machine.command(harness) } else { harness.command() };
        tally.run(&harness.title(), command.args(&skip).args(name))?;
    }
    if name.is_none() {
        tally.run("examples in the documentation", &mut doctests(Arch::host()?)?)?;
    }
    Ok(report(&tally, &machine.missing))
}

/// Whether a harness holds the tests that run the whole exporter, in modules named after their needs.
pub(crate) fn runs_exporter(harness: &Executable) -> bool {
    harness.package == root().join("tests")
}

/// Builds the suites that may contain a test.
fn build_suites_with(arch: Arch, name: &str) -> Result<Vec<Executable>> {
    let mut built = Vec::new();
    for suite in suites()? {
        if suite.may_contain(name)? {
            eprintln!("building the tests of {}", suite.name);
            built.extend(build_suite(arch, &suite)?);
        }
    }
    Ok(built)
}

/// The paths of the tests in a harness.
fn list(harness: &Executable, name: Option<&str>, skip: &[String]) -> Result<Vec<String>> {
    let list = output(harness.command().arg("--list").args(skip).args(name))?;
    let list = String::from_utf8(list).context("list of tests")?;
    let paths = list.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(paths.map(str::to_owned).collect())
}

/// Whether a test is in a module, or in one within it.
fn is_in(test: &str, module: &str) -> bool {
    test.split("::").any(|part| part == module)
}

/// The needs of the tests that this machine meets, and those that it does not.
struct Machine {
    /// Environment variables with paths for the tests.
    variables: Vec<(&'static str, PathBuf)>,
    missing: Vec<Missing>,
}

/// A need that this machine does not meet.
struct Missing {
    need: &'static Need,
    why: anyhow::Error,
    /// The modules skipped because of it, except those skipped because of an earlier need.
    modules: Vec<&'static str>,
    /// The number of tests skipped.
    tests: usize,
}

impl Machine {
    /// Finds what these tests need, except what is given.
    fn find<'t>(
        tests: impl Iterator<Item = &'t String>,
        given: &[(&'static str, PathBuf)],
    ) -> Self {
        let tests: Vec<_> = tests.collect();
        let settings = image::containers_conf().map(|path| (image::CONTAINERS_CONF, path));
        let variables = settings.into_iter().chain(given.iter().cloned());
        let mut machine = Self { variables: variables.collect(), missing: Vec::new() };
        let is_given = |need: &&Need| given.iter().any(|(name, _)| need.variable == Some(*name));
        for need in NEEDS.iter().filter(|need| !is_given(need)) {
            let mut modules = need.modules.to_vec();
            modules.retain(|module| !machine.skipped_modules().any(|skipped| skipped == *module));
            let in_module = |test: &&&String| modules.iter().any(|module| is_in(test, module));
            let tests = tests.iter().filter(in_module).count();
            if tests == 0 {
                continue;
            }
            match (need.find)() {
                Ok(path) => machine.variables.extend(need.variable.map(|name| (name, path))),
                Err(why) => machine.missing.push(Missing { need, why, modules, tests }),
            }
        }
        machine
    }

    fn skipped_modules(&self) -> impl Iterator<Item = &'static str> {
        self.missing.iter().flat_map(|missing| missing.modules.iter().copied())
    }

    /// The command for tests of the whole exporter. They share a kernel, so run one at a time.
    fn command(&self, harness: &Executable) -> Command {
        let mut command = if self.missing.iter().any(|missing| missing.need.what == ROOT) {
            let mut command = harness.command();
            command.envs(self.variables.iter().map(|(name, value)| (name, value)));
            command
        } else {
            harness.as_cargo_runs(root_command(&harness.path, &self.variables))
        };
        command.arg("--test-threads=1");
        for module in self.skipped_modules() {
            command.arg(format!("--skip={module}::"));
        }
        command
    }
}

/// Reports the tests that did not run, and ends with the counts on their own line.
fn report(tally: &Tally, missing: &[Missing]) -> ExitCode {
    println!();
    for died in &tally.died {
        println!("failed: {died}");
    }
    for Missing { need, why, tests, .. } in missing.iter().filter(|missing| missing.tests > 0) {
        let tests = counted(*tests, "test that needs", "tests that need");
        println!("not run: {tests} {}: {why:#}; {}", need.what, need.remedy);
    }
    if tally.ignored > 0 {
        let tests = counted(tally.ignored, "test that is", "tests that are");
        println!("not run: {tests} marked `#[ignore]`");
    }
    let Tally { passed, failed, ignored, .. } = tally;
    let skipped = ignored + missing.iter().map(|missing| missing.tests).sum::<usize>();
    let on_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    if skipped > 0 && on_ci {
        println!("failed: CI is set, so every test must run");
    }
    println!("{}", closing_line(*passed, *failed, skipped));
    if *failed > 0 || skipped > 0 && on_ci { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
