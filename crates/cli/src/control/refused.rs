//! What a refused call means for the exit code, and for the person who made it.

use std::{error::Error as _, fmt::Display};

use anyhow::{Chain, Error};
use tonic::{Code, Response, Status};

use crate::{
    control::table::one_line,
    exit::{Exit, Failure},
};

/// Ends a run when a call is refused.
pub(crate) trait OrRefused<T> {
    /// The answer, or a failure that begins with `what`, for example `cannot list keys`.
    fn or_refused(self, what: impl Display) -> Result<T, Failure>;
}

impl<T> OrRefused<T> for Result<Response<T>, Status> {
    fn or_refused(self, what: impl Display) -> Result<T, Failure> {
        self.map(Response::into_inner)
            .map_err(|status| Failure::new(exit(&status), Error::msg(explain(&what, &status))))
    }
}

/// The part of an answer without which there is nothing to show.
pub(crate) fn present<T>(part: Option<T>, what: &str) -> Result<T, Failure> {
    part.ok_or_else(|| Failure::not_fine(format!("the answer of the server has no {what}")))
}

/// Why there is no answer at all; `None` when the server has refused.
fn transport(status: &Status) -> Option<String> {
    let root = Chain::new(status.source()?).last()?;
    Some(one_line(&root.to_string()))
}

fn exit(status: &Status) -> Exit {
    match status.code() {
        Code::Aborted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Unavailable => Exit::Unavailable,
        _ if transport(status).is_some() => Exit::Unavailable,
        Code::InvalidArgument | Code::Unauthenticated | Code::Unimplemented => Exit::Usage,
        _ => Exit::NotFine,
    }
}

fn explain(what: &impl Display, status: &Status) -> String {
    let code = format!("{:?}", status.code());
    let cause = transport(status).filter(|cause| !status.message().contains(cause.as_str()));
    let parts = [what.to_string(), code, one_line(status.message()), cause.unwrap_or_default()];
    let told: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let text = told.join(": ");
    match hint(status) {
        Some(hint) => format!("{text}; {hint}"),
        None => text,
    }
}

fn hint(status: &Status) -> Option<&'static str> {
    match status.code() {
        // A client's own deadline is reported as a cancellation.
        Code::Cancelled | Code::DeadlineExceeded => Some(
            "the server may have done it all the same: look before you try again, with a longer \
             --timeout",
        ),
        _ if transport(status).is_some() => {
            Some("check that the server is up and that --url is its address")
        }
        Code::AlreadyExists => Some("take another name, or change what is there with `update`"),
        Code::NotFound => Some("`list` shows what there is"),
        Code::PermissionDenied => Some(
            "no role of the caller allows it; see `auth.roles` in the configuration of the server",
        ),
        Code::ResourceExhausted | Code::Unavailable => {
            Some("the server, or a database or token that it needs, is down or busy; try again")
        }
        Code::Unauthenticated => {
            Some("give a valid access token with --token-file, KASBAH_TOKEN_FILE or KASBAH_TOKEN")
        }
        Code::Unimplemented => Some(
            "this server keeps no registry; set `kas.key_index: registry` in its configuration",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code) -> String {
        let result: Result<Response<()>, _> = Err(Status::new(code, "because"));
        format!("{:?}", result.or_refused("cannot list keys").unwrap_err())
    }

    #[test]
    fn what_may_pass_by_itself_exits_with_3() {
        for code in [
            Code::Aborted,
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::ResourceExhausted,
            Code::Unavailable,
        ] {
            assert_eq!(exit(&Status::new(code, "")), Exit::Unavailable, "{code:?}");
        }
    }

    #[test]
    fn what_the_caller_must_correct_exits_with_2() {
        for code in [Code::InvalidArgument, Code::Unauthenticated, Code::Unimplemented] {
            assert_eq!(exit(&Status::new(code, "")), Exit::Usage, "{code:?}");
        }
    }

    #[test]
    fn what_is_not_fine_exits_with_1() {
        for code in [
            Code::AlreadyExists,
            Code::FailedPrecondition,
            Code::Internal,
            Code::NotFound,
            Code::PermissionDenied,
            Code::Unknown,
        ] {
            assert_eq!(exit(&Status::new(code, "")), Exit::NotFine, "{code:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_failed_why_and_what_to_do() {
        let text = refused(Code::PermissionDenied);
        assert!(text.contains("cannot list keys: PermissionDenied: because"), "{text}");
        assert!(text.contains("auth.roles"), "{text}");
        assert!(refused(Code::Unauthenticated).contains("--token-file"));
        assert!(refused(Code::Unavailable).contains("try again"));
        assert!(refused(Code::DeadlineExceeded).contains("--timeout"));
    }

    #[test]
    fn no_answer_at_all_is_not_the_word_of_the_server() {
        let cause = std::io::Error::other("frame too long");
        let status = Status::from_error(Box::new(cause));
        assert_eq!(exit(&status), Exit::Unavailable);
        let text = explain(&"cannot list keys", &status);
        assert!(text.contains("frame too long; check that the server is up"), "{text}");
    }

    #[test]
    fn the_text_of_a_server_stays_on_one_line() {
        let status = Status::invalid_argument("one\ntwo\u{1b}[31m");
        assert_eq!(explain(&"no", &status), "no: InvalidArgument: one two\u{fffd}[31m");
        assert_eq!(explain(&"no", &Status::internal("")), "no: Internal");
    }

    #[test]
    fn a_missing_part_is_not_fine() {
        let failure = present(None::<()>, "key").unwrap_err();
        assert!(format!("{failure:?}").contains("NotFine"), "{failure:?}");
    }
}
