// Command csi-sanity runs the CSI conformance suite against the driver at -endpoint. Every flag of ginkgo works too.
package main

import (
	"flag"
	"io"
	"os"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"k8s.io/klog/v2"
)

// verdict is all that the suite needs of a testing.T.
type verdict struct{ failed bool }

func (v *verdict) Fail() { v.failed = true }

func main() {
	config := sanity.NewTestConfig()
	flag.StringVar(&config.Address, "endpoint", "", "the driver's socket, or its node's")
	flag.StringVar(&config.ControllerAddress, "controller", "", "the controller's socket, if it has one of its own")
	flag.StringVar(&config.TestVolumeParametersFile, "parameters", "", "YAML: parameters of every volume")
	flag.StringVar(&config.TestSnapshotParametersFile, "snapshot-parameters", "", "YAML: parameters of every snapshot")
	flag.StringVar(&config.TestVolumeMutableParametersFile, "mutable-parameters", "", "YAML: what ControllerModifyVolume sets")
	flag.StringVar(&config.SecretsFile, "secrets", "", "YAML: the secrets of every call")
	flag.StringVar(&config.TestVolumeAccessType, "access-type", "mount", "mount or block")
	flag.StringVar(&config.TargetPath, "target", config.TargetPath, "where volumes are published")
	flag.StringVar(&config.StagingPath, "staging", config.StagingPath, "where volumes are staged")
	flag.BoolVar(&config.TestNodeVolumeAttachLimit, "attach-limit", false, "publish more volumes than the node takes")
	flag.Int64Var(&config.TestVolumeSize, "size", 1<<30, "bytes of every volume")
	flag.Parse()
	klog.SetOutput(io.Discard)
	var result verdict
	sanity.Test(&result, config)
	if result.failed {
		os.Exit(1)
	}
}
