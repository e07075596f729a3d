// The smallest worker.
#include "worker.hpp"

int main() {
    return wws::serve([](wws::Request &) {
        wws::Response response{"Hello from C++\n"};
        return response.add("content-type", "text/plain; charset=utf-8");
    });
}
