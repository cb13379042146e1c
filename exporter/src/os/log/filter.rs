//! Applies the limiter to events.

use std::fmt;

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Filter};

use super::{
    limit::Message,
    writer::{LogWriter, OWN_TARGET},
};

/// Maximum length in bytes of each text of a message that is kept. A longer one is cut.
const MAX_TEXT: usize = 1_024;

/// Leaves out events of level info or above that are too frequent, and debug events of libraries, some of which
/// log every frame that they send.
pub(super) struct RateLimit {
    pub(super) log: LogWriter,
    /// Events with this target are never left out.
    pub(super) unlimited: &'static str,
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        let is_ours = || metadata.target().split("::").next() == OWN_TARGET.split("::").next();
        *metadata.level() <= Level::INFO || is_ours()
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let is_unlimited = *metadata.level() > Level::INFO
            || [OWN_TARGET, self.unlimited].contains(&metadata.target());
        is_unlimited || self.log.admit(metadata, Message::of(event))
    }
}

impl Message {
    fn of(event: &Event<'_>) -> Self {
        let mut message = Self::default();
        event.record(&mut message);
        cut(&mut message.text);
        cut(&mut message.fields);
        message
    }

    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.text);
            return;
        }
        if self.fields.is_empty() {
            value.clone_into(&mut self.subject);
        } else {
            self.fields.push(' ');
        }
        let is_word =
            !value.is_empty() && !value.contains(|it: char| it.is_whitespace() || it == '"');
        let value = if is_word { value.to_owned() } else { format!("{value:?}") };
        self.fields.extend([field.name(), "=", &value]);
    }
}

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
}
