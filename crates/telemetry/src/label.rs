//! The values of labels: closed sets, so that a client or a worker cannot add series.

/// Defines an enumeration whose values are those of a label.
macro_rules! labels {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$value_meta:meta])+ $value:ident = $text:literal, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$value_meta])+ $value, )+
        }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The value of the label.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $( Self::$value => $text, )+ }
            }

            pub(crate) fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// The method of a request.
    Method {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// PATCH.
        Patch = "PATCH",
        /// DELETE.
        Delete = "DELETE",
        /// OPTIONS.
        Options = "OPTIONS",
        /// Any other one.
        Other = "other",
    }
}

impl Method {
    /// The method with this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let known = Self::ALL.iter().find(|method| method.text() == name);
        known.copied().unwrap_or(Self::Other)
    }
}

labels! {
    /// The first digit of a status.
    StatusClass {
        /// 100 to 199.
        Informational = "1xx",
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirect = "3xx",
        /// 400 to 499; 499 is a client that went away.
        ClientError = "4xx",
        /// 500 and more.
        ServerError = "5xx",
    }
}

impl StatusClass {
    /// The class of a status.
    #[must_use]
    pub fn new(status: u16) -> Self {
        match status {
            0..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

labels! {
    /// Why the server did not have a worker answer.
    Refusal {
        /// The queue was full (`server.queue`).
        QueueFull = "queue_full",
        /// No place within `server.queue_timeout`.
        QueueTimeout = "queue_timeout",
        /// No memory (`server.memory`).
        Memory = "memory",
        /// The request's body is larger than `server.max_body`.
        BodyTooLarge = "body_too_large",
        /// The request's body did not arrive within `server.body_timeout`.
        BodyTimeout = "body_timeout",
        /// The request's body ended early.
        BodyBroken = "body_broken",
        /// The request is not valid HTTP, or of a kind that no worker gets.
        BadRequest = "bad_request",
    }
}

labels! {
    /// How a worker failed.
    Failure {
        /// It met one of its limits.
        Limit = "limit",
        /// Its code trapped.
        Trap = "trap",
        /// It exited with a code other than 0.
        Exit = "exit",
        /// Its program failed, such as by an exception.
        Program = "program",
        /// It gave no valid response.
        Response = "response",
        /// Its key/value store failed.
        Kv = "kv",
        /// The body of the request ended early.
        Body = "body",
        /// The server failed.
        Server = "server",
    }
}

labels! {
    /// A limit that a worker met.
    Limit {
        /// `limits.cpu_time`.
        CpuTime = "cpu_time",
        /// `limits.wall_time`.
        WallTime = "wall_time",
        /// `limits.stream_idle`.
        StreamIdle = "stream_idle",
        /// `limits.stream_time`.
        StreamTime = "stream_time",
        /// `limits.stream_bytes`.
        StreamBytes = "stream_bytes",
        /// `limits.output`.
        Output = "output",
        /// `limits.memory`.
        Memory = "memory",
        /// `limits.table_elements`.
        TableElements = "table_elements",
        /// `limits.buffers`.
        Buffers = "buffers",
        /// `limits.http_calls`.
        HttpCalls = "http_calls",
        /// `server.memory`.
        ServerMemory = "server_memory",
    }
}

labels! {
    /// How an outgoing request ended.
    Outgoing {
        /// With a response, whatever its status.
        Answered = "answered",
        /// It is not allowed.
        NotAllowed = "not_allowed",
        /// It took too long.
        Timeout = "timeout",
        /// The request or the response is too large, or not valid.
        Invalid = "invalid",
        /// The worker ended before.
        Cancelled = "cancelled",
        /// The other server could not be reached, or closed the connection.
        Failed = "failed",
    }
}

labels! {
    /// An operation of a key/value store.
    KvOperation {
        /// The whole namespace is read.
        Snapshot = "snapshot",
        /// Changes are written.
        Apply = "apply",
        /// One value is read.
        Get = "get",
        /// A number is incremented.
        Increment = "increment",
        /// A value is replaced if it is the expected one.
        CompareAndSwap = "compare_and_swap",
        /// Keys are listed.
        List = "list",
        /// The turn of a namespace is taken.
        Turn = "turn",
        /// Any other one.
        Other = "other",
    }
}

labels! {
    /// The kind of a key/value store.
    KvStore {
        /// In the memory of the server.
        Memory = "memory",
        /// In a file.
        File = "file",
        /// In Redis or Valkey.
        Redis = "redis",
    }
}

labels! {
    /// Where the code of a worker came from.
    CodeSource {
        /// The code cache.
        Cached = "cached",
        /// The compiler.
        Compiled = "compiled",
        /// The compiler, because the code cache's entry was damaged.
        Damaged = "damaged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_share_a_label() {
        assert_eq!(Method::new("PATCH"), Method::Patch);
        for other in ["get", "PROPFIND", ""] {
            assert_eq!(Method::new(other), Method::Other, "{other}");
        }
    }

    #[test]
    fn every_status_has_a_class() {
        for (status, class) in [
            (100, "1xx"),
            (204, "2xx"),
            (304, "3xx"),
            (499, "4xx"),
            (599, "5xx"),
        ] {
            assert_eq!(StatusClass::new(status).text(), class);
        }
    }

    #[test]
    fn indices_follow_the_order() {
        for (index, limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(limit.index(), index);
        }
    }
}
