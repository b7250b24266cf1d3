#!/bin/sh
# The first process of the guest. Its root is the host's, read-only, under a file system in memory; 127.0.0.1 is the host's.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "insmod $module failed" >/dev/console; done </modules/order

# loopback belongs to the host: packages for it go out to the gateway, which hands them on there. 127.0.0.2 stays ours.
nic=$(ls /sys/class/net | grep -v '^lo$' | head -n 1)
ip link set lo up
ip addr add 10.0.2.15/24 dev "$nic"
ip link set "$nic" up
ip route add default via 10.0.2.2
for flag in route_localnet accept_local; do echo 1 >"/proc/sys/net/ipv4/conf/$nic/$flag"; done
ip addr add 127.0.0.2/8 dev lo
ip route del local 127.0.0.0/8 table local
ip route del local 127.0.0.1 table local
ip route add local 127.0.0.2 dev lo table local 2>/dev/null
ip route add 127.0.0.1/32 via 10.0.2.2 src 10.0.2.15

mount -t virtiofs -o ro host /lower
mount -t tmpfs -o size=75% memory /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work,redirect_dir=off,index=off,xino=off root /root
for dir in proc sys dev; do mount --move "/$dir" "/root/$dir"; done
mount -t tmpfs tmpfs /root/run
kernel=$(uname -r)
mkdir -p "/root/lib/modules/$kernel" /root/run/guest
# the unpacked kernel is below a directory of the host that the command line names
for word in $(cat /root/proc/cmdline); do case $word in guest.kernel=*) from=${word#guest.kernel=} ;; esac; done
mount --bind "/root$from/lib/modules/$kernel" "/root/lib/modules/$kernel"
mkdir -p /root/dev/pts /root/dev/shm /root/run/lock
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
echo guest >/root/proc/sys/kernel/hostname
cp /bin/busybox /agent /root/run/guest/
exec switch_root /root /run/guest/busybox sh /run/guest/agent
