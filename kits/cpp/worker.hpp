// Answers HTTP requests in WebAssembly: a worker of wws in C++17. A thin layer over kits/c; README.md has an example.
//
// Views (std::string_view) are of memory that lasts as long as the request.
#ifndef WORKER_HPP
#define WORKER_HPP

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker.h"

namespace wws {

inline std::string_view view(const worker_text &text) { return {text.data == nullptr ? "" : text.data, text.size}; }

// Header lines or parameters, in order.
class Pairs {
  public:
    explicit Pairs(worker_pairs pairs = {}) : pairs_(pairs) {}

    struct Pair {
        std::string_view name, value;
    };
    class Iterator {
      public:
        explicit Iterator(const worker_pair *at) : at_(at) {}
        Pair operator*() const { return {view(at_->name), view(at_->value)}; }
        Iterator &operator++() { return ++at_, *this; }
        bool operator!=(const Iterator &other) const { return at_ != other.at_; }

      private:
        const worker_pair *at_;
    };
    Iterator begin() const { return Iterator(pairs_.items); }
    Iterator end() const { return Iterator(pairs_.items + pairs_.count); }
    std::size_t size() const { return pairs_.count; }

    // All values of a name; upper and lower case are the same.
    std::vector<std::string_view> all(std::string_view name) const {
        std::vector<std::string_view> values;
        for (auto pair : *this) {
            if (same(pair.name, name)) values.push_back(pair.value);
        }
        return values;
    }

    // The first value of a name; upper and lower case are the same.
    std::optional<std::string_view> first(std::string_view name) const {
        for (auto pair : *this) {
            if (same(pair.name, name)) return pair.value;
        }
        return std::nullopt;
    }

  private:
    static bool same(std::string_view a, std::string_view b) {
        auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
        if (a.size() != b.size()) return false;
        for (std::size_t i = 0; i < a.size(); i++) {
            if (lower(a[i]) != lower(b[i])) return false;
        }
        return true;
    }
    worker_pairs pairs_;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

// A request that the worker sends.
struct Outgoing {
    std::string url;
    std::string method = "GET";
    Headers headers = {};
    std::string_view body = {};
};

// What came back; false where nothing did.
struct Reply {
    int status = 0;
    Pairs headers = Pairs();
    std::string_view body = {};
    std::optional<worker_error> error = {};
    std::string_view message = {}; // of the error

    explicit operator bool() const { return !error; }
    // As "not-allowed".
    std::string_view error_name() const { return error ? worker_error_name(*error) : ""; }
};

// The request that is answered, and what the worker may use meanwhile.
class Request {
  public:
    explicit Request(::worker *w) : w_(w) {}
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    std::string_view method() const { return view(w_->method); }
    std::string_view url() const { return view(w_->url); }
    std::string_view body() const { return view(w_->body); }
    Pairs headers() const { return Pairs(w_->headers); }
    std::optional<std::string_view> header(std::string_view name) const { return headers().first(name); }
    // A parameter of the route.
    std::optional<std::string_view> param(std::string_view name) const {
        for (auto pair : Pairs(w_->params)) {
            if (pair.name == name) return pair.value;
        }
        return std::nullopt;
    }
    // The first value of a name in the query, decoded.
    std::optional<std::string_view> query(const std::string &name) {
        const char *value = worker_query(w_, name.c_str());
        return value == nullptr ? std::nullopt : std::optional<std::string_view>(value);
    }

    // The key/value store. Changes are stored if the request does not fail.
    std::optional<std::string_view> get(const std::string &key) const {
        const worker_text *value = worker_kv_get(w_, key.c_str());
        return value == nullptr ? std::nullopt : std::optional<std::string_view>(view(*value));
    }
    bool set(const std::string &key, std::string_view value) {
        return plain(key) && worker_kv_set(w_, key.c_str(), value.data(), value.size());
    }
    bool remove(const std::string &key) { return plain(key) && worker_kv_delete(w_, key.c_str()); }

    // Sends a request and waits for the reply.
    Reply fetch(const Outgoing &outgoing) {
        std::vector<worker_pair> headers;
        for (const auto &[name, value] : outgoing.headers) {
            headers.push_back({{name.data(), name.size()}, {value.data(), value.size()}});
        }
        worker_outgoing request = {};
        request.method = outgoing.method.c_str();
        request.url = outgoing.url.c_str();
        request.headers = {headers.data(), headers.size()};
        request.body = {outgoing.body.data(), outgoing.body.size()};
        worker_reply reply = {};
        Reply result;
        if (worker_fetch(w_, &request, &reply)) {
            result.status = reply.status;
            result.headers = Pairs(reply.headers);
            result.body = view(reply.body);
        } else {
            result.error = reply.error;
            result.message = reply.message;
        }
        return result;
    }

  private:
    bool plain(const std::string &key) {
        return key.find('\0') == std::string::npos || worker_fail(w_, "a key of the store has a NUL character");
    }
    ::worker *w_;
};

// The answer.
struct Response {
    std::string body;
    int status = 200;
    Headers headers = {};
    std::optional<std::string> failure = {};

    // Adds a header line.
    Response &add(std::string name, std::string value) {
        headers.emplace_back(std::move(name), std::move(value));
        return *this;
    }
    // Status 500 for the caller, the cause for the log.
    static Response failed(std::string cause) {
        Response response;
        response.failure = std::move(cause);
        return response;
    }
};

// Writes a line to the server's log.
inline void log(const std::string &line) { worker_log(line.c_str()); }

// A variable of the worker's TOML.
inline std::optional<std::string_view> variable(const std::string &name) {
    const char *value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string_view>(value);
}

// Hands an answer over; what main's handler is to return.
inline int send(::worker *w, const Response &response) {
    if (response.failure) {
        log(*response.failure);
        return 1;
    }
    worker_status(w, response.status);
    for (const auto &[name, value] : response.headers) {
        if (name.find('\0') != std::string::npos || value.find('\0') != std::string::npos) {
            worker_fail(w, "a header has a NUL character");
        }
        worker_add_header(w, name.c_str(), value.c_str());
    }
    worker_write(w, response.body.data(), response.body.size());
    return 0;
}

// Answers the request by `handler`, which takes a Request & and returns a Response. Returns what main is to return.
template <class Handler> int serve(Handler handler) {
    static Handler *current;
    current = &handler;
    return worker_serve([](::worker *w) -> int {
        Request request(w);
        return send(w, (*current)(request));
    });
}

} // namespace wws

#endif
