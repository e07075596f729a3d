module user-generation-go

go 1.24

// Programs of Wasm Workers Server 1.x import its kit by this name.
require github.com/vmware-labs/wasm-workers-server/kits/go/worker v0.0.0

replace github.com/vmware-labs/wasm-workers-server/kits/go/worker => ../../../kits/go
