# The peer of Ruby workers, for Puma: the same answer.
run ->(env) { [200, { "content-type" => "text/plain" }, ["Hello from a worker\n"]] }
