//! Where the value of a setting comes from: flag over environment over file over default.
//!
//! Knows no setting by name. It walks the arguments that clap was told about, checks the value that a
//! lower source gives by parsing it as that argument, and appends it to the command line as if it had
//! been typed. So there is one parser, one set of defaults, and `--help` shows them as they are.
//!
//! Relies on one convention: an argument whose value name holds `SECRET` is shown only up to its colon.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use toml::de::{DeTable, DeValue};

const ENV_PREFIX: &str = "FANLINE_";

/// The argument that names the file. A verb without it has flags only.
const FILE_SETTING: &str = "config";

/// Where a value was written, in the words its author would use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default { flag: String },
    Flag { flag: String },
    Env { variable: String },
    File { path: String, line: usize, key: String },
}

/// A setting that is unknown, illegible or impossible. Displays as one line: where it was written, the
/// setting, its value (of a secret only the id), what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub origin: Origin,
    pub value: Option<String>,
    pub problem: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref().map(|value| value.escape_debug().to_string());
        let after = |sign: &str| value.as_ref().map(|value| format!("{sign}{value}")).unwrap_or_default();
        match &self.origin {
            Origin::Default { flag } => write!(f, "{flag}{} (the default)", after(" "))?,
            Origin::Flag { flag } => write!(f, "{flag}{}", after(" "))?,
            Origin::Env { variable } => write!(f, "{variable}{}", after("="))?,
            Origin::File { path, line, key } => write!(f, "{path}:{line}: {key}{}", after(" = "))?,
        }
        write!(f, ": {}", self.problem)
    }
}

/// A command line that was understood.
pub(super) enum Layered<T> {
    Parsed(T, Origins),
    /// Help or version, for standard output.
    Text(String),
}

/// One setting as one source gives it; several values where it may be repeated.
struct Written {
    origin: Origin,
    values: Vec<String>,
}

/// What one source says, by the id of the setting.
type Layer = HashMap<String, Written>;

/// Where each setting of the verb came from, and its value as it may be shown, for what is found wrong
/// after parsing.
pub(super) struct Origins(HashMap<String, (Origin, String)>);

impl Origins {
    /// The error of the setting with this id.
    pub(super) fn error(&self, id: &str, problem: String) -> ConfigError {
        match self.0.get(id).cloned() {
            Some((origin, value)) => ConfigError { origin, value: Some(value), problem },
            None => {
                let flag = format!("--{}", id.replace('_', "-"));
                ConfigError { origin: Origin::Default { flag }, value: None, problem }
            }
        }
    }
}

/// Parses `args` as `T`, with what the environment and the file add to the verb that `args` names.
pub(super) fn parse<T: Parser>(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layered<T>, ConfigError> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let command = T::command();
    let matches = match command.clone().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) if is_text(&error) => return Ok(Layered::Text(error.render().to_string())),
        Err(error) => return Err(flag_error(&error)),
    };
    let mut origins = HashMap::new();
    if let Some((verb, matches)) = matches.subcommand()
        && let Some(verb) = command.find_subcommand(verb)
        && setting(verb, FILE_SETTING).is_some()
    {
        for (id, written) in lay(verb, matches, env)? {
            let Some(arg) = setting(verb, &id) else { continue };
            args.extend(as_typed(arg, &written));
            origins.insert(id, (written.origin, shown(arg, &written.values.join(","))));
        }
    }
    let parsed = T::try_parse_from(args).map_err(|error| flag_error(&error))?;
    Ok(Layered::Parsed(parsed, Origins(origins)))
}

/// The settings of all sources, each from the highest that has it.
fn lay(
    verb: &Command,
    matches: &ArgMatches,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layer, ConfigError> {
    let flags = from_flags(verb, matches);
    let env = from_env(verb, env)?;
    let mut layers = match flags.get(FILE_SETTING).or_else(|| env.get(FILE_SETTING)) {
        Some(file) => from_file(verb, file)?,
        None => Layer::new(),
    };
    layers.extend(env);
    layers.extend(flags);
    Ok(layers)
}

/// A setting as command line arguments; none if it was typed, since it is there already.
fn as_typed(arg: &Arg, written: &Written) -> Vec<OsString> {
    match written.origin {
        Origin::Flag { .. } => Vec::new(),
        _ => written.values.iter().map(|value| typed(arg, value).into()).collect(),
    }
}

fn typed(arg: &Arg, value: &str) -> String {
    format!("--{}={value}", arg.get_long().unwrap_or_default())
}

fn setting<'a>(verb: &'a Command, id: &str) -> Option<&'a Arg> {
    verb.get_arguments().find(|arg| arg.get_id() == id)
}

/// The setting with this other name; a list reads better in the plural.
fn aliased<'a>(verb: &'a Command, name: &str) -> Option<&'a Arg> {
    verb.get_arguments().find(|arg| arg.get_all_aliases().unwrap_or_default().contains(&name))
}

fn from_flags(verb: &Command, matches: &ArgMatches) -> Layer {
    let typed = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let written = |arg: &Arg| {
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values = values.map(|value| shown(arg, &value.to_string_lossy())).collect();
        let origin = Origin::Flag { flag: format!("--{}", arg.get_long().unwrap_or_default()) };
        (arg.get_id().to_string(), Written { origin, values })
    };
    verb.get_arguments().filter(typed).map(written).collect()
}

/// The variables with our prefix. One that names no setting is an error.
fn from_env(
    verb: &Command,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (variable, value) in env {
        let Some(variable) = variable.to_str() else { continue };
        let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
        let value = value.to_str();
        if value == Some("") || is_from_kubernetes(name, value.unwrap_or_default()) {
            continue;
        }
        let id = name.to_ascii_lowercase();
        let origin = Origin::Env { variable: variable.to_owned() };
        let Some(arg) = setting(verb, &id) else {
            return Err(unknown(verb, &id, origin));
        };
        let Some(value) = value else {
            return Err(ConfigError { origin, value: None, problem: "not UTF-8 text".into() });
        };
        let written = Written { origin, values: vec![value.to_owned()] };
        check(arg, &written)?;
        layer.insert(id, written);
    }
    Ok(layer)
}

/// Kubernetes sets such variables in every pod near a service that is called `fanline`.
fn is_from_kubernetes(name: &str, value: &str) -> bool {
    name.starts_with("SERVICE_") || name.starts_with("PORT_") || (name == "PORT" && value.contains("://"))
}

fn from_file(verb: &Command, file: &Written) -> Result<Layer, ConfigError> {
    let path = file.values.concat();
    let text = fs::read_to_string(&path).map_err(|error| ConfigError {
        origin: file.origin.clone(),
        value: Some(path.clone()),
        problem: format!("cannot be read ({error}); name a TOML file that this user may read"),
    })?;
    let at = |offset: usize, key: &str| Origin::File {
        path: path.clone(),
        line: text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1,
        key: key.to_owned(),
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let origin = at(error.span().map_or(0, |span| span.start), "not TOML");
        ConfigError { origin, value: None, problem: error.message().replace('\n', ", ") }
    })?;
    let mut keys: Vec<_> = table.get_ref().iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    let mut layer = Layer::new();
    for (key, value) in keys {
        let (id, written) =
            from_key(verb, key.get_ref(), value.get_ref(), at(key.span().start, key.get_ref()))?;
        if let Some(Written { origin: Origin::File { key, .. }, .. }) = layer.get(&id) {
            let problem = format!("already set as `{key}`; keep one of them");
            return Err(ConfigError { origin: written.origin, value: None, problem });
        }
        layer.insert(id, written);
    }
    Ok(layer)
}

/// One key of the file: the id of its setting, and what it says.
fn from_key(
    verb: &Command,
    key: &str,
    value: &DeValue<'_>,
    origin: Origin,
) -> Result<(String, Written), ConfigError> {
    let id = key.replace('-', "_");
    let Some(arg) = setting(verb, &id).or_else(|| aliased(verb, &id)).filter(|_| id != FILE_SETTING) else {
        return Err(unknown(verb, &id, origin));
    };
    let id = arg.get_id().to_string();
    match texts(arg, value) {
        Ok(values) => {
            let written = Written { origin, values };
            check(arg, &written)?;
            Ok((id, written))
        }
        Err(problem) => Err(ConfigError { origin, value: None, problem }),
    }
}

/// The values of a key, as they would be typed.
fn texts(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(items) if matches!(arg.get_action(), ArgAction::Append) => {
            items.iter().enumerate().map(|(at, item)| entry(arg, at, item.get_ref())).collect()
        }
        DeValue::Array(_) => Err("is an array; this setting takes one value".into()),
        value => scalar(value).map(|text| vec![text]),
    }
}

/// One item of a list.
fn entry(arg: &Arg, at: usize, item: &DeValue<'_>) -> Result<String, String> {
    let DeValue::Table(table) = item else { return scalar(item) };
    let name = arg.get_value_names().unwrap_or_default().first().map(|name| name.to_ascii_lowercase());
    let fields: Vec<_> = name.iter().flat_map(|name| name.split(':')).collect();
    if fields.len() < 2 {
        return scalar(item);
    }
    joined(&fields, table).map_err(|problem| format!("entry {}: {problem}", at + 1))
}

/// A table as it would be typed: `id` and `secret` make `ID:SECRET`. No error repeats a value.
fn joined(fields: &[&str], table: &DeTable<'_>) -> Result<String, String> {
    let wanted = fields.join(" and ");
    if let Some((key, _)) = table.iter().find(|(key, _)| !fields.contains(&key.get_ref().as_ref())) {
        return Err(format!("no field is called `{}`; write {wanted}", key.get_ref()));
    }
    let texts = fields.iter().map(|field| {
        let value = table.get(*field).ok_or_else(|| format!("`{field}` is missing; write {wanted}"))?;
        let text = scalar(value.get_ref()).map_err(|problem| format!("`{field}` {problem}"))?;
        // The signs that part fields and entries where a list is typed.
        let (signs, names): (&[char], _) = match Some(field) == fields.last() {
            true => (&[','], "comma"),
            false => (&[',', ':'], "comma or colon"),
        };
        if text.contains(signs) { Err(format!("`{field}` must hold no {names}")) } else { Ok(text) }
    });
    Ok(texts.collect::<Result<Vec<_>, String>>()?.join(":"))
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "the number is too large".into()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(boolean) => Ok(boolean.to_string()),
        other => Err(format!("is a {}; write a string, a number or a boolean", other.type_str())),
    }
}

/// Parses each value as if it had been typed as `arg`, so that an error can name its true origin.
fn check(arg: &Arg, written: &Written) -> Result<(), ConfigError> {
    let alone = Command::new("setting").no_binary_name(true).arg(arg.clone());
    for value in &written.values {
        if let Err(error) = alone.clone().try_get_matches_from([typed(arg, value)]) {
            let blamed = context(&error, ContextKind::InvalidValue).unwrap_or(value);
            let (value, problem) = (Some(shown(arg, blamed)), problem(&error));
            return Err(ConfigError { origin: written.origin.clone(), value, problem });
        }
    }
    Ok(())
}

/// The error of a name that is no setting, with the one that was probably meant.
fn unknown(verb: &Command, id: &str, origin: Origin) -> ConfigError {
    let typed = format!("--{}", id.replace('_', "-"));
    let error = verb.clone().no_binary_name(true).try_get_matches_from([typed]).err();
    let meant = error.as_ref().and_then(|error| context(error, ContextKind::SuggestedArg));
    let meant = meant.map(|flag| flag.trim_start_matches('-').replace('-', "_"));
    let problem = match (&origin, meant) {
        (Origin::Env { .. }, Some(id)) => {
            format!("no such setting; did you mean {ENV_PREFIX}{}?", id.to_ascii_uppercase())
        }
        (_, Some(id)) => format!("no such setting; did you mean {id}?"),
        (_, None) if id == FILE_SETTING => "a file cannot name another; remove it".into(),
        (_, None) => "no such setting; `fanline serve --help` lists them".into(),
    };
    ConfigError { origin, value: None, problem }
}

fn is_text(error: &clap::Error) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

/// What clap has to say about the command line itself.
fn flag_error(error: &clap::Error) -> ConfigError {
    let arg = context(error, ContextKind::InvalidArg).unwrap_or("fanline");
    // "--udp-port <FIRST>", or a stray word, which may be a secret that lost its flag.
    let (flag, placeholder) = arg.split_once(' ').unwrap_or((arg, ""));
    let flag = flag.split([':', '=']).next().unwrap_or_default().to_owned();
    let value = context(error, ContextKind::InvalidValue).filter(|value| !value.is_empty());
    let value = value.map(|value| if placeholder.contains("SECRET") { id_only(value) } else { value.into() });
    ConfigError { origin: Origin::Flag { flag }, value, problem: problem(error) }
}

/// The problem and its remedy. Our own value parsers word theirs; the rest is worded here.
fn problem(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::ValueValidation => match std::error::Error::source(error) {
            Some(ours) => ours.to_string(),
            None => first_line(error),
        },
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(choices)) if !choices.is_empty() => {
                format!("use {}", choices.join(" or "))
            }
            _ => "needs a value".into(),
        },
        ErrorKind::UnknownArgument => match context(error, ContextKind::SuggestedArg) {
            Some(flag) => format!("no such flag; did you mean {flag}?"),
            None => "no such flag; `fanline serve --help` lists them".into(),
        },
        ErrorKind::ArgumentConflict => "given more than once; keep one".into(),
        _ => first_line(error),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// A value as it may be shown.
fn shown(arg: &Arg, value: &str) -> String {
    let secret = arg.get_value_names().unwrap_or_default().iter().any(|name| name.contains("SECRET"));
    if secret { id_only(value) } else { value.to_owned() }
}

/// `ID:…` of each `ID:SECRET`; of text without a colon, nothing.
fn id_only(value: &str) -> String {
    let item = |item: &str| item.split_once(':').map_or("…".into(), |(id, _)| format!("{id}:…"));
    value.split(',').map(item).collect::<Vec<_>>().join(",")
}
