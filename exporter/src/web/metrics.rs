//! Answers scrapes, in the format and encoding that the client prefers.

use std::time::Duration;

use hyper::{
    Request, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderName, HeaderValue, RETRY_AFTER, VARY,
    },
};

use super::{
    App,
    compress::{MIN_BYTES, gzip},
    negotiate::{self, Exposition},
    query,
    renderings::{Missing, PATIENCE, RETRY, Wanted},
    response::{Answer, Response, exposition, text},
};
use crate::os::log;

/// A connection can be closed for another scrape if its client has read nothing for this long. It is long
/// enough for the reactor to come round to every client.
const STUCK: Duration = Duration::from_millis(25);

impl App {
    /// Answers a scrape after its `turn`, or with the rendering of another; or responds with 400 to an
    /// unknown filter, and with 503 at the limit of concurrent scrapes or of memory, if no connection can be
    /// closed. `is_again` says that its connection has just been answered.
    pub(super) async fn metrics<B>(
        &self,
        request: &Request<B>,
        is_again: bool,
        turn: impl Future<Output = ()>,
    ) -> Response {
        let headers = request.headers();
        let selection = match query::selection(request.uri().query()) {
            Ok(selection) => selection,
            Err(error) => {
                turn.await;
                return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
            }
        };
        let values = |name: HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let Exposition { format, content_type } = negotiate::exposition(values(ACCEPT));
        let gzip = negotiate::gzip(values(ACCEPT_ENCODING));
        let wanted = Wanted { format, gzip, selection, is_again };
        let give_up = || self.places.evict_stuck(STUCK);
        let rendering =
            self.renderings.get(wanted, turn, give_up, |wanted| self.render(wanted)).await;
        let rendering = match rendering {
            Ok(rendering) => rendering,
            Err(Missing::NoRoom) => {
                return busy("Too much is being sent to other clients, try again later.\n".into());
            }
            Err(Missing::Unreadable) => {
                let reason = "Cannot read the kernel's records; see the log.\n";
                return text(StatusCode::INTERNAL_SERVER_ERROR, reason);
            }
        };
        // Not before the turn, so that scrapes that wait for theirs hold no permits.
        let Some(permit) = self.limit.permit(PATIENCE, RETRY, give_up).await else {
            let max = self.server.max_requests;
            return busy(format!(
                "Limit of concurrent requests reached ({max}), try again later.\n"
            ));
        };
        let is_gzip = rendering.is_gzip();
        let in_flight = self.server.telemetry.scrapes_in_flight().clone();
        let answer = Answer::new(rendering, permit, in_flight);
        let mut response = exposition(content_type, answer);
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if is_gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// Renders an exposition; also returns whether it is compressed.
    fn render(&self, wanted: &Wanted) -> Result<(Vec<u8>, bool), Missing> {
        let scraped = self.server.exporter.scrape(wanted.format, &wanted.selection);
        let text = scraped.map_err(|error| {
            tracing::error!(error = log::chain(&error), "scrape failed");
            Missing::Unreadable
        })?;
        let is_gzip = wanted.gzip && text.len() >= MIN_BYTES;
        Ok((if is_gzip { gzip(&text) } else { text.into_bytes() }, is_gzip))
    }
}

fn busy(reason: String) -> Response {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, reason);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
