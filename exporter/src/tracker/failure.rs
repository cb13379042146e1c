//! Logs a lasting failure only once.

/// The last failure of something that is retried.
#[derive(Debug, Default)]
pub(super) struct Failure(Option<String>);

impl Failure {
    /// Takes a reason. Returns whether it differs from the last one.
    pub(super) fn is_news(&mut self, reason: &str) -> bool {
        let is_news = self.0.as_deref() != Some(reason);
        if is_news {
            self.0 = Some(reason.to_owned());
        }
        is_news
    }

    /// Notes a success.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_once_until_a_success_or_another() {
        let mut failure = Failure::default();
        assert_eq!(["a", "a", "b", "a"].map(|it| failure.is_news(it)), [true, false, true, true]);
        failure.end();
        assert!(failure.is_news("a"));
    }
}
