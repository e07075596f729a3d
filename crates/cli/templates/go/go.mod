module hello

go 1.24

require wws/worker v0.0.0

replace wws/worker => ./kit
