module wws/worker

go 1.24
