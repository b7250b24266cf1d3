// Command etcd is etcd's own server, for the versions of Kubernetes that ask more of it than Debian's can do.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
