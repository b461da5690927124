import java.io.FileReader;
import java.io.FileWriter;
import java.math.BigInteger;
import java.net.URL;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.PrivateKey;
import java.security.cert.CertStore;
import java.security.cert.Certificate;
import java.security.cert.X509CRL;
import java.security.cert.X509Certificate;
import java.util.Collection;
import java.util.Date;
import javax.security.auth.x500.X500Principal;
import org.bouncycastle.asn1.DERPrintableString;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.cert.jcajce.JcaX509v3CertificateBuilder;
import org.bouncycastle.openssl.PEMKeyPair;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.openssl.jcajce.JcaPEMWriter;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;
import org.jscep.client.Client;
import org.jscep.client.EnrollmentResponse;
import org.jscep.client.verification.OptimisticCertificateVerifier;
import org.jscep.transaction.OperationFailureException;
import org.jscep.transaction.TransactionId;

/**
 * One SCEP operation by jscep. The first line on standard output says what came of it: SUCCESS, PENDING and the
 * transaction id, or FAILURE and failInfo. Files are in the working folder.
 *
 * <pre>
 * identity NAME SUBJECT               NAME.key and a self-signed NAME.crt
 * enrol URL SIGNER KEY SUBJECT CHALLENGE OUT    signed by SIGNER.crt with SIGNER.key, for KEY.key
 * poll URL SIGNER SUBJECT ID OUT
 * getcert URL SIGNER SERIAL OUT
 * getcrl URL SIGNER CERTIFICATE OUT
 * getnext URL OUT
 * </pre>
 */
public final class JscepClient {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "identity" -> identity(args[1], new X500Principal(args[2]));
            case "enrol" -> answered(
                    client(args[1]).enrol(certificate(args[2]), key(args[2]), request(args[3], args[4], args[5])),
                    args[6]);
            case "poll" -> answered(
                    client(args[1]).poll(
                            certificate(args[2]), key(args[2]), new X500Principal(args[3]),
                            new TransactionId(args[4].getBytes())),
                    args[5]);
            case "getcert" -> getCertificate(args);
            case "getcrl" -> getCrl(args);
            case "getnext" -> {
                write(args[2], certificates(client(args[1]).getRolloverCertificate()));
                System.out.println("SUCCESS");
            }
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    private static Client client(String url) throws Exception {
        return new Client(new URL(url), new OptimisticCertificateVerifier());
    }

    private static void identity(String name, X500Principal subject) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
        generator.initialize(2048);
        KeyPair pair = generator.generateKeyPair();
        Date now = new Date();
        X509CertificateHolder made = new JcaX509v3CertificateBuilder(
                subject, BigInteger.valueOf(now.getTime()), new Date(now.getTime() - 86_400_000L),
                new Date(now.getTime() + 86_400_000L), subject, pair.getPublic()).build(signer(pair.getPrivate()));
        write(name + ".key", java.util.List.of(pair));
        write(name + ".crt", java.util.List.of(new JcaX509CertificateConverter().getCertificate(made)));
        System.out.println("SUCCESS");
    }

    private static void answered(EnrollmentResponse response, String out) throws Exception {
        if (response.isPending()) {
            System.out.println("PENDING " + response.getTransactionId());
        } else if (response.isFailure()) {
            System.out.println("FAILURE " + response.getFailInfo());
        } else {
            write(out, certificates(response.getCertStore()));
            System.out.println("SUCCESS");
        }
    }

    private static void getCertificate(String[] args) throws Exception {
        try {
            CertStore found = client(args[1]).getCertificate(
                    certificate(args[2]), key(args[2]), new BigInteger(args[3], 16));
            write(args[4], certificates(found));
            System.out.println("SUCCESS");
        } catch (OperationFailureException failure) {
            System.out.println("FAILURE " + failure.getFailInfo());
        }
    }

    private static void getCrl(String[] args) throws Exception {
        X509Certificate about = certificate(args[3]);
        try {
            X509CRL crl = client(args[1]).getRevocationList(
                    certificate(args[2]), key(args[2]), about.getIssuerX500Principal(), about.getSerialNumber());
            write(args[4], java.util.List.of(crl));
            System.out.println("SUCCESS");
        } catch (OperationFailureException failure) {
            System.out.println("FAILURE " + failure.getFailInfo());
        }
    }

    private static PKCS10CertificationRequest request(String name, String subject, String challenge) throws Exception {
        KeyPair pair = pair(name);
        JcaPKCS10CertificationRequestBuilder builder =
                new JcaPKCS10CertificationRequestBuilder(new X500Principal(subject), pair.getPublic());
        if (!challenge.isEmpty()) {
            builder.addAttribute(
                    PKCSObjectIdentifiers.pkcs_9_at_challengePassword, new DERPrintableString(challenge));
        }
        return builder.build(signer(pair.getPrivate()));
    }

    private static ContentSigner signer(PrivateKey key) throws Exception {
        return new JcaContentSignerBuilder("SHA256withRSA").build(key);
    }

    private static PrivateKey key(String name) throws Exception {
        return pair(name).getPrivate();
    }

    private static KeyPair pair(String name) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(name + ".key"))) {
            return new JcaPEMKeyConverter().getKeyPair((PEMKeyPair) parser.readObject());
        }
    }

    private static X509Certificate certificate(String name) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(name + ".crt"))) {
            return new JcaX509CertificateConverter().getCertificate((X509CertificateHolder) parser.readObject());
        }
    }

    private static Collection<? extends Certificate> certificates(CertStore store) throws Exception {
        return store.getCertificates(null);
    }

    private static void write(String path, Collection<?> objects) throws Exception {
        try (JcaPEMWriter writer = new JcaPEMWriter(new FileWriter(path))) {
            for (Object object : objects) {
                writer.writeObject(object);
            }
        }
    }
}
