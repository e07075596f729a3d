// Every feature of a worker; kits/README.md says what each answers.
#include <cstdio>
#include <map>
#include <memory>
#include <random>

#include "worker.hpp"

using wws::Request;
using wws::Response;

static int calls;

static std::string text(std::optional<std::string_view> value) { return std::string(value.value_or("")); }

static Response count(Request &request) {
    std::string next = std::to_string(std::atol(text(request.get("count")).c_str()) + 1);
    request.set("count", next);
    return {next};
}

static Response forget(Request &request) {
    request.remove("count");
    return {"forgotten"};
}

static Response keep(Request &request) {
    if (request.method() == "POST") request.set("kept", request.body());
    return {text(request.get("kept"))};
}

// Debian's libc++ for WebAssembly has no <fstream>.
using File = std::unique_ptr<std::FILE, int (*)(std::FILE *)>;

static Response file(const char *path) {
    File in(std::fopen(path, "rb"), std::fclose);
    if (!in) return Response::failed(std::string("cannot open ") + path);
    Response response;
    char part[4096];
    while (std::size_t got = std::fread(part, 1, sizeof part, in.get())) response.body.append(part, got);
    if (std::ferror(in.get())) return Response::failed(std::string("cannot read ") + path);
    return response;
}

static Response write(Request &request) {
    {
        File out(std::fopen("/data/out.txt", "wb"), std::fclose);
        auto body = request.body();
        if (!out || std::fwrite(body.data(), 1, body.size(), out.get()) != body.size() || std::fflush(out.get()) != 0) {
            return Response::failed("cannot write the file");
        }
    }
    return file("/data/out.txt");
}

static Response echo(Request &request) {
    Response response{std::string(request.body())};
    response.add("content-type", text(request.header("content-type")));
    return response;
}

static Response headers(Request &request) {
    Response response;
    for (auto value : request.headers().all("x-in")) {
        response.body.append(response.body.empty() ? "" : "|").append(value);
        response.add("x-out", std::string(value));
    }
    return response.add("set-cookie", "a=1").add("set-cookie", "b=2; Path=/");
}

static Response status(Request &request) {
    std::string code = text(request.query("code"));
    Response response{code, std::atoi(code.c_str())};
    return response.add("x-code", code);
}

static Response fetch(Request &request) {
    wws::Outgoing outgoing{text(request.query("url")), std::string(request.method())};
    outgoing.headers = {{"x-sent", "yes"}, {"x-sent", "again"}};
    outgoing.body = request.body();
    auto reply = request.fetch(outgoing);
    if (!reply) return {std::string(reply.error_name()) + ": " + std::string(reply.message), 502};
    Response response{std::string(reply.body), reply.status};
    for (auto value : reply.headers.all("x-from")) response.add("x-from", std::string(value));
    return response;
}

static Response random_bytes(Request &) {
    std::random_device random;
    char hex[33];
    for (int i = 0; i < 4; i++) std::snprintf(hex + 8 * i, 9, "%08x", random());
    return {hex};
}

static Response loop(Request &) {
    for (volatile bool going = true; going;) continue;
    return {};
}

static Response eat(Request &) {
    std::vector<std::string> eaten;
    for (;;) eaten.emplace_back(1 << 20, 'x');
}

static int deeper(volatile int &depth) {
    volatile int here = depth + 1;
    return deeper(here) + here;
}

static Response recurse(Request &) {
    volatile int depth = 0;
    return {"", deeper(depth)};
}

static Response log_line(Request &) {
    wws::log("features: a líne in the log");
    return {"logged"};
}

int main() {
    static const std::map<std::string_view, Response (*)(Request &)> features = {
        {"hello", [](Request &request) -> Response { return {"Hello, " + text(request.query("name")) + "!"}; }},
        {"vars", [](Request &) -> Response { return {text(wws::variable("GREETING"))}; }},
        {"count", count},
        {"forget", forget},
        {"keep", keep},
        {"read", [](Request &) { return file("/data/in.txt"); }},
        {"write", write},
        {"echo", echo},
        {"headers", headers},
        {"status", status},
        {"fetch", fetch},
        {"fail", [](Request &) { return Response::failed("features: failed on purpose"); }},
        {"log", log_line},
        {"global", [](Request &) -> Response { return {std::to_string(++calls)}; }},
        {"random", random_bytes},
        {"loop", loop},
        {"eat", eat},
        {"recurse", recurse},
    };
    return wws::serve([](Request &request) {
        auto name = request.param("feature").value_or("");
        auto found = features.find(name);
        auto response = found != features.end() ? found->second(request) : Response{"no such feature: " + std::string(name), 404};
        for (const auto &header : response.headers) {
            if (header.first == "content-type") return response;
        }
        response.add("content-type", "text/plain; charset=utf-8");
        return response;
    });
}
