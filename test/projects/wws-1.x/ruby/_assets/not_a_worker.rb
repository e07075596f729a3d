raise "nobody runs this"
